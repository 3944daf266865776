"""Periodic jobs that open no readings: sweep, partitions, retention, indexes, upgrade.

A job is listed in `iot_writer.jobs` and queued by `iot_writer.ticker`.
"""
