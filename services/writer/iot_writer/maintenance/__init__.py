"""The work of the periodic jobs: sweep, partitions, retention, indexes, upgrade.

`iot_writer.jobs` lists the jobs. `iot_writer.ticker` queues them.
"""
