"""The figures of `GET /api/status`, each with the PromQL expression of the same figure."""

from collections.abc import Mapping

FIGURES: Mapping[str, str] = {
    "rates.readings_in": "sum(rate(iot_readings_acknowledged_total[1m]))",
    "rates.bytes_in": "sum(rate(iot_put_body_bytes_sum[1m]))",
    "rates.puts_rejected": "sum(rate(iot_puts_rejected_total[1m]))",
    "rates.readings_out": "sum(rate(iot_readings_stored_total[1m]))",
    "rates.readings_read": "sum(rate(iot_readings_read_total[1m]))",
    "rates.bytes_out": "sum(rate(iot_drain_written_bytes_total[1m]))",
    "backlog.bytes": "max(iot_backlog_bytes)",
    "backlog.limit_bytes": "max(iot_backlog_limit_bytes)",
    "backlog.entries": "sum(max by (shard) (iot_backlog_entries))",
    "backlog.oldest_seconds": "max(iot_backlog_oldest_seconds)",
    "backlog.held_entries": "max(iot_entries_held)",
    "shards[].entries": "max by (shard) (iot_backlog_entries)",
    "shards[].oldest_seconds": "max by (shard) (iot_backlog_shard_oldest_seconds)",
    "shards[].drained_seconds": "time() - max by (shard) (iot_shard_drained_timestamp_seconds)",
    "shards[].hot_window_seconds": "max by (shard) (iot_hot_window_cover_seconds)",
    "writers[].heartbeat_seconds": "time() - iot_writer_heartbeat_timestamp_seconds",
    "writers[].readings_out": "rate(iot_readings_stored_total[1m])",
    "api_processes[].heartbeat_seconds": "time() - iot_api_heartbeat_timestamp_seconds",
    "api_processes[].readings_in": "rate(iot_readings_acknowledged_total[1m])",
    "dead_letters.count": "max(iot_dead_letters)",
    "hot_window.seconds": "max(iot_hot_window_seconds)",
    "hot_window.covered_seconds": "min(max by (shard) (iot_hot_window_cover_seconds))",
    "keys[].primary": "min by (key) (iot_api_master_key_primary)",
    "keys[].api": "min by (key) (iot_api_master_key_loaded)",
    "keys[].writers": "min by (key) (iot_writer_master_key_loaded)",
    "schema.revision": "max(iot_schema_revision)",
}
"""PromQL expressions for the figures in the answer of `GET /api/status`. A key is the figure's path
in the answer. `[]` stands for each item of a list.

The expressions show means over a minute; the rates in the answer are means over the last 15 to 30
seconds.
"""
