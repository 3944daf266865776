"""Reads of a vault: find segments, decrypt and merge them in bounded memory, stream the readings.

`routes` parses the HTTP arguments; `iot_stores.history` has the SQL.
"""
