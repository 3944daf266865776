"""Reads of a vault: they find its segments, decrypt and merge them in bounded memory, and stream
the readings.

The HTTP arguments are read in `routes`; the SQL is in `iot_stores.history`.
"""
