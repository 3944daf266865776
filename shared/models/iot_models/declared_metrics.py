"""The declarations of all metrics. `iot_models.metrics` creates the metrics from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .errors import ErrorCode

_UNITS = ({"seconds", "bytes"}, {"seconds", "bytes", "readings"})
"""The units that counters and gauges may have, and the units that histograms may have."""


@dataclass(frozen=True, slots=True)
class Metric:
    """The declaration of a metric."""

    name: str
    kind: str
    service: str
    meaning: str
    labels: Sequence[str] = ()
    initial_labels: Sequence[str] = ()
    """Values of the metric's only label. For each of these values, the metric is exported as 0 from
    the start: a counter that appears with its first event would show no increase in Prometheus."""
    of_processes: Literal["all", "livemin", "livesum"] = "all"
    """How a gauge that several worker processes set is exported. `all`: one value per process.
    `livemin`, `livesum`: the minimum or the sum of the values of the running processes."""

    @property
    def unit(self) -> str:
        """The base unit, with which `family` ends; "" if the metric has no unit."""
        last = self.family.rpartition("_")[2]
        return last if last in _UNITS[self.kind == "histogram"] else ""

    @property
    def family(self) -> str:
        """The name of the family in OpenMetrics: the name of the metric, without `_total`."""
        return self.name.removesuffix("_total") if self.kind == "counter" else self.name


METRICS = (
    Metric("iot_http_requests_total", "counter", "api",
           "HTTP requests answered.", ("route", "method", "status")),
    Metric("iot_http_request_seconds", "histogram", "api",
           "Time from the request to the head of the answer, in seconds.", ("route", "method")),
    Metric("iot_http_requests_in_flight", "gauge", "api",
           "Requests whose answers are not sent yet, except for live streams; the workers count "
           "them four times a second.",
           of_processes="livesum"),
    Metric("iot_http_connections", "gauge", "api",
           "Open connections; the workers count them four times a second.",
           of_processes="livesum"),
    Metric("iot_put_body_bytes", "histogram", "api",
           "Size of the bodies of PUTs as received, in bytes."),
    Metric("iot_put_readings", "histogram", "api",
           "Readings of a PUT that was accepted."),
    Metric("iot_puts_rejected_total", "counter", "api",
           "PUTs of readings that were refused, by the code of the error. None of their readings "
           "is stored.", ("reason",), initial_labels=tuple(ErrorCode)),
    Metric("iot_client_certificates_refused_total", "counter", "api",
           "TLS handshakes that failed because of the client's certificate, by reason: expired (or "
           "not yet valid), untrusted, revoked, no_list (its authority has no valid list in "
           "IOT_TLS_CLIENT_CRL_FILE), none (the client has none, and IOT_TLS_CLIENT_REQUIRED is "
           "1).",
           ("reason",), initial_labels=("expired", "untrusted", "revoked", "no_list", "none")),
    Metric("iot_connections_closed_total", "counter", "api",
           "Connections that the API closed although the client had not ended them, by reason. "
           "reason=new, head, idle, body or sending: the phase in which the client was slow or "
           "silent. reason=room or memory: the API needed the connection or its memory for another "
           "client. reason=refused: all connections were busy.",
           ("reason",),
           initial_labels=("new", "head", "idle", "body", "sending", "room", "memory", "refused")),
    Metric("iot_readings_acknowledged_total", "counter", "api",
           "Readings acknowledged with 201 or 202: they were added to the backlog. Readings of "
           "repeated requests are not counted again."),
    Metric("iot_readings_read_total", "counter", "api",
           "Readings returned by reads."),
    Metric("iot_vault_cache_hits_total", "counter", "api",
           "Uses of a vault that was open in the process."),
    Metric("iot_vault_cache_misses_total", "counter", "api",
           "Searches for a vault that was not open in the process. Each costs a scrypt."),
    Metric("iot_vaults_opened_total", "counter", "api",
           "Vaults that a process opened by a scrypt. how=found: the vault existed. how=created: "
           "the process created it.", ("how",),
           initial_labels=("found", "created")),
    Metric("iot_vaults_moved_total", "counter", "api",
           "Vaults whose record got a lookup of the current format and scrypt cost."),
    Metric("iot_vaults_put_back_total", "counter", "api",
           "Vaults that Postgres lacked, restored from a record in memory or in Redis."),
    Metric("iot_vaults_replaced_total", "counter", "api",
           "Vaults that Postgres lost and whose password has another vault in Postgres now."),
    Metric("iot_unknown_passwords_total", "counter", "api",
           "Unknown passwords. These count: a read or an erasure that finds no vault, a PUT that "
           "creates a vault, and every change of a password."),
    Metric("iot_refused_total", "counter", "api",
           "Requests answered 429, by the limit that they reached.", ("reason",),
           initial_labels=("guesses", "new_vaults", "openings", "opening_queue",
                     "large_requests", "remembered_requests", "rate", "live_streams")),
    Metric("iot_scrypts_total", "counter", "api",
           "Computations of scrypt, by queue: known (passwords that the process has opened "
           "before), suspects (clients that sent unknown passwords), first (all others).",
           ("queue",),
           initial_labels=("known", "first", "suspects")),
    Metric("iot_scrypts_waiting", "gauge", "api",
           "Requests that wait for a scrypt.", of_processes="livesum"),
    Metric("iot_scrypts_running", "gauge", "api",
           "Computations of scrypt that run.", of_processes="livesum"),
    Metric("iot_reads_total", "counter", "api",
           "Reads, by the store that answered them.", ("source",)),
    Metric("iot_live_listeners", "gauge", "api",
           "Open live streams.", of_processes="livesum"),
    Metric("iot_live_events_total", "counter", "api",
           "Events sent in live streams.", ("event",),
           initial_labels=("open", "readings", "summary", "heartbeat", "error")),
    Metric("iot_live_readings_sent_total", "counter", "api",
           "Readings sent in live streams."),
    Metric("iot_live_readings_skipped_total", "counter", "api",
           "Readings that live streams left out, because their clients read too slowly or were too "
           "far behind."),
    Metric("iot_live_delay_seconds", "histogram", "api",
           "Time from the receipt of a reading until it is offered to live streams, in seconds."),
    Metric("iot_live_reads_of_postgres_total", "counter", "api",
           "Reads of Postgres by live streams, because the hot window lacked readings."),
    Metric("iot_damaged_total", "counter", "api",
           "How often damaged data was found, by kind: segment (it can't be opened), vault (its "
           "record in Postgres can't be opened), vault_cache (its record in Redis can't be "
           "opened), overlap (two segments have ids in common), guesses (a counter of the guess "
           "limit in Redis is not a number, or would live for longer than a minute).",
           ("what",), initial_labels=("segment", "vault", "vault_cache", "overlap", "guesses")),
    Metric("iot_backlog_bytes", "gauge", "api",
           "Size of the backlog, in sealed bytes."),
    Metric("iot_backlog_limit_bytes", "gauge", "api",
           "Maximum size of the backlog, in sealed bytes."),
    Metric("iot_backlog_entries", "gauge", "api",
           "Entries in the backlog.", ("shard",)),
    Metric("iot_backlog_oldest_seconds", "gauge", "api",
           "Age of the oldest entry in the backlog, in seconds; 0 when the backlog is empty."),
    Metric("iot_backlog_shard_oldest_seconds", "gauge", "api",
           "Age of the oldest entry of a shard, in seconds; 0 when the shard has none.",
           ("shard",)),
    Metric("iot_hot_window_seconds", "gauge", "api",
           "Seconds for which the hot window keeps segments (IOT_HOT_WINDOW_SECONDS)."),
    Metric("iot_hot_window_cover_seconds", "gauge", "api",
           "The hot window holds all readings that a shard received in this number of seconds "
           "before now. Absent for a shard that was never drained.", ("shard",)),
    Metric("iot_api_heartbeat_timestamp_seconds", "gauge", "api",
           "Unix time of the last heartbeat that a worker sent to Redis. With several workers, the "
           "earliest of these times.", of_processes="livemin"),
    Metric("iot_dead_letters", "gauge", "api",
           "Dead letters."),
    Metric("iot_entries_held", "gauge", "api",
           "Acknowledged entries that are not stored, because Postgres does not have their "
           "vaults."),
    Metric("iot_backlog_up", "gauge", "api",
           "1 if Redis answered the query for the backlog, else 0."),
    Metric("iot_api_clock_skew_seconds", "gauge", "api",
           "Seconds by which the clock of Redis is ahead of the pod's; negative: behind."),
    Metric("iot_tls_certificate_not_after_timestamp_seconds", "gauge", "api",
           "Unix time at which the API's certificate expires; absent without "
           "IOT_TLS_CERTIFICATE.", of_processes="livemin"),
    Metric("iot_tls_client_crl_next_update_timestamp_seconds", "gauge", "api",
           "Earliest Unix time at which a revocation list of IOT_TLS_CLIENT_CRL_FILE expires; "
           "absent without lists that expire.", of_processes="livemin"),
    Metric("iot_api_master_key_loaded", "gauge", "api",
           "1 while all workers have loaded the master key of this id, 0 after a worker removed "
           "the key.",
           ("key",), of_processes="livemin"),
    Metric("iot_api_master_key_primary", "gauge", "api",
           "1 for the master key with which the workers encrypt, 0 for others.",
           ("key",), of_processes="livemin"),
    Metric("iot_writer_master_key_loaded", "gauge", "writer",
           "1 while the writer has loaded the keys derived from the master key of this id, 0 after "
           "these were removed.", ("key",)),
    Metric("iot_postgres_sessions_lost_total", "counter", "api",
           "Sessions of Postgres that ended during a statement. The statement is repeated if that "
           "is safe."),
    Metric("iot_api_build_info", "gauge", "api",
           "1; the labels are the versions of iot-sensor and of Python.", ("version", "python")),
    Metric("iot_audit_recorded_total", "counter", "api",
           "Events that API processes added to the audit log."),
    Metric("iot_audit_unrecorded_total", "counter", "api",
           "Events that are not in the audit log, because it could not be written."),
    Metric("iot_drains_total", "counter", "writer",
           "Drains, by outcome. A drain of three shards counts three times. A drain that fails "
           "counts once.", ("outcome",),
           initial_labels=("stored", "repeated", "empty", "busy", "held", "erased",
                     "postgres_away", "redis_away", "failed")),
    Metric("iot_job_last_success_timestamp_seconds", "gauge", "writer",
           "Unix time at which an hourly job last succeeded in this process; 0 if it never did.",
           ("job_name",),
           initial_labels=("partitions", "retention")),
    Metric("iot_drain_seconds", "histogram", "writer",
           "Duration of a drain, in seconds."),
    Metric("iot_readings_stored_total", "counter", "writer",
           "Readings committed to Postgres."),
    Metric("iot_segments_stored_total", "counter", "writer",
           "Segments committed to Postgres."),
    Metric("iot_drain_read_bytes_total", "counter", "writer",
           "Sealed bytes of the entries that drains took from the backlog."),
    Metric("iot_drain_content_bytes_total", "counter", "writer",
           "Bytes of the readings that drains committed to Postgres, before compression."),
    Metric("iot_drain_written_bytes_total", "counter", "writer",
           "Encrypted bytes of the segments that drains committed to Postgres, after compression."),
    Metric("iot_segment_bytes", "histogram", "writer",
           "Encrypted size of the segments that drains committed, in bytes."),
    Metric("iot_segment_readings", "histogram", "writer",
           "Readings in a segment that drains committed."),
    Metric("iot_drain_postgres_seconds", "histogram", "writer",
           "Time of a drain in Postgres, by step, in seconds.", ("step",),
           initial_labels=("ledger", "insert", "commit")),
    Metric("iot_drain_redis_seconds", "histogram", "writer",
           "Time of a drain in Redis, by step, in seconds.", ("step",),
           initial_labels=("read", "hot_window", "remove")),
    Metric("iot_drain_retries_total", "counter", "writer",
           "Drains that repeat a failed drain of the same process."),
    Metric("iot_shard_drained_timestamp_seconds", "gauge", "writer",
           "Unix time at which this process last drained a shard.", ("shard",)),
    Metric("iot_writer_heartbeat_timestamp_seconds", "gauge", "writer",
           "Unix time of the last heartbeat that this process sent to Redis."),
    Metric("iot_schema_revision", "gauge", "writer",
           "Revision of the database's schema, when this process last connected."),
    Metric("iot_entries_repeated_total", "counter", "writer",
           "Entries that a drain met again after they were stored; they are not stored twice."),
    Metric("iot_entries_dead_total", "counter", "writer",
           "Entries set aside as dead letters."),
    Metric("iot_entries_held_total", "counter", "writer",
           "Entries held because Postgres did not have their vaults."),
    Metric("iot_entries_erased_total", "counter", "writer",
           "Entries dropped because their vaults were erased."),
    Metric("iot_vaults_erased_total", "counter", "writer",
           "Erased vaults whose segments this process has deleted."),
    Metric("iot_ledger_behind_total", "counter", "writer",
           "Shards whose state in Postgres was older than in Redis: Postgres was restored from a "
           "backup, or a replica without the newest transactions took over."),
    Metric("iot_hot_window_missed_total", "counter", "writer",
           "Drains whose segments could not be written to the hot window; reads then use "
           "Postgres."),
    Metric("iot_stored_after_seconds", "histogram", "writer",
           "Time from the acknowledgement of a drain's oldest entry until Postgres has stored the "
           "entry, in seconds."),
    Metric("iot_readable_after_seconds", "histogram", "writer",
           "Time from the acknowledgement of a drain's oldest entry until all reads find the "
           "entry, including reads of the hot window, in seconds."),
    Metric("iot_writer_build_info", "gauge", "writer",
           "1; the labels are the versions of iot-sensor and of Python.", ("version", "python")),
    Metric("iot_compactions_total", "counter", "writer",
           "Orders to merge small segments, by outcome.", ("outcome",),
           initial_labels=("merged", "gone", "damaged", "refused", "empty",
                     "postgres_away", "redis_away", "failed")),
    Metric("iot_segments_compacted_total", "counter", "writer",
           "Small segments replaced by merged segments."),
    Metric("iot_writer_clock_skew_seconds", "gauge", "writer",
           "Seconds by which the clock of Redis is ahead of the pod's; negative: behind."),
    Metric("iot_audit_head", "gauge", "writer",
           "Number of links in the audit log's hash chain, when this process last looked."),
    Metric("iot_audit_head_link", "gauge", "writer",
           "The last 6 bytes of the last link of the audit log's hash chain, as an integer."),
    Metric("iot_audit_head_lost", "gauge", "writer",
           "1 if the database lacks the published head of the audit log's hash chain, else 0."),
    Metric("iot_canary_sent_total", "counter", "canary",
           "Readings of the canary that were acknowledged."),
    Metric("iot_canary_lost_total", "counter", "canary",
           "Readings of the canary that were acknowledged and can't be read."),
    Metric("iot_canary_late_total", "counter", "canary",
           "Readings of the canary that were counted as lost and were read later."),
    Metric("iot_canary_doubled_total", "counter", "canary",
           "Readings of the canary that are stored more than once."),
    Metric("iot_canary_failures_total", "counter", "canary",
           "Requests of the canary that got no answer or an unexpected one."),
    Metric("iot_canary_round_trip_seconds", "histogram", "canary",
           "Time from sending a reading of the canary until it could be read, in seconds."),
    Metric("iot_canary_build_info", "gauge", "canary",
           "1; the labels are the versions of iot-sensor and of Python.", ("version", "python")),
)  # fmt: skip
