"""Reads: find the segments, decrypt and merge them in bounded memory, stream pages of JSON.

The HTTP arguments are read in `routes`; the SQL is in `iot_stores.history`.
"""
