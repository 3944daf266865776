"""All metrics. Each is declared once in `METRICS`, and services get it by its name."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


@dataclass(frozen=True, slots=True)
class Metric:
    """The declaration of a metric."""

    name: str
    kind: str
    service: str
    meaning: str
    labels: Sequence[str] = ()
    initial_labels: Sequence[str] = ()
    """Values of the only label that are exported as 0 from the start. A counter that appears with
    its first event would show no increase in Prometheus."""
    of_processes: Literal["all", "livemin", "livesum"] = "all"
    """How a gauge is exported for several worker processes: every value, or the minimum or the sum
    of the running ones."""


METRICS = (
    Metric("iot_http_requests_total", "counter", "api",
           "HTTP requests answered.", ("route", "method", "status")),
    Metric("iot_http_request_seconds", "histogram", "api",
           "Time from the request to the head of the answer, in seconds.", ("route", "method")),
    Metric("iot_client_certificates_refused_total", "counter", "api",
           "TLS handshakes that failed for the client's certificate, by reason: expired (or not "
           "yet valid), untrusted, revoked, no_list (its authority has no valid list in "
           "IOT_TLS_CLIENT_CRL_FILE), none (IOT_TLS_CLIENT_REQUIRED).",
           ("reason",), initial_labels=("expired", "untrusted", "revoked", "no_list", "none")),
    Metric("iot_connections_closed_total", "counter", "api",
           "Connections that the API closed on slow or silent clients, by reason: the phase in "
           "which the client was slow; room or memory, which other requests needed; refused, "
           "when all connections were busy.",
           ("reason",),
           initial_labels=("new", "head", "idle", "body", "sending", "room", "memory", "refused")),
    Metric("iot_readings_acknowledged_total", "counter", "api",
           "Readings acknowledged with 201: they are in the backlog."),
    Metric("iot_readings_read_total", "counter", "api",
           "Readings returned by reads."),
    Metric("iot_vaults_opened_total", "counter", "api",
           "Vaults opened with their password (scrypt).", ("how",),
           initial_labels=("found", "created")),
    Metric("iot_vaults_moved_total", "counter", "api",
           "Vaults moved to a newer lookup or a higher scrypt cost."),
    Metric("iot_vaults_put_back_total", "counter", "api",
           "Vaults that Postgres lacked, put back from a record in memory or in Redis."),
    Metric("iot_vaults_replaced_total", "counter", "api",
           "Vaults in whose place Postgres has another vault of the same password."),
    Metric("iot_unknown_passwords_total", "counter", "api",
           "Unknown passwords: reads that found no vault, and PUTs that created one."),
    Metric("iot_refused_total", "counter", "api",
           "Requests answered 429, by the limit that they reached.", ("reason",),
           initial_labels=("guesses", "new_vaults", "openings", "opening_queue",
                     "large_requests", "remembered_requests", "rate", "live_streams")),
    Metric("iot_scrypts_total", "counter", "api",
           "Computations of scrypt, by the queue from which they came.", ("queue",),
           initial_labels=("known", "first", "suspects")),
    Metric("iot_scrypts_waiting", "gauge", "api",
           "Requests that wait for a scrypt.", of_processes="livesum"),
    Metric("iot_reads_total", "counter", "api",
           "Reads, by the store that answered them.", ("source",)),
    Metric("iot_live_listeners", "gauge", "api",
           "Open live streams.", of_processes="livesum"),
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
           "Segments or vault records that could not be opened, reads that met an id twice, "
           "and guess counters in Redis that are not numbers.",
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
           "For how many of the last seconds the hot window holds all readings of a shard; absent "
           "for a shard that was never drained.", ("shard",)),
    Metric("iot_api_heartbeat_timestamp_seconds", "gauge", "api",
           "Unix time of the last heartbeat that a worker sent to Redis; of several workers, the "
           "oldest.", of_processes="livemin"),
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
           "Unix time at which the certificate expires that the API serves; absent without "
           "IOT_TLS_CERTIFICATE.", of_processes="livemin"),
    Metric("iot_tls_client_crl_next_update_timestamp_seconds", "gauge", "api",
           "Unix time at which the first revocation list of IOT_TLS_CLIENT_CRL_FILE expires; "
           "absent without lists that expire.", of_processes="livemin"),
    Metric("iot_api_master_key_loaded", "gauge", "api",
           "1 while the workers have loaded the master key of this id, 0 after one removed it.",
           ("key",), of_processes="livemin"),
    Metric("iot_api_master_key_primary", "gauge", "api",
           "1 for the master key with which the workers encrypt, 0 for others.",
           ("key",), of_processes="livemin"),
    Metric("iot_writer_master_key_loaded", "gauge", "writer",
           "1 while the writer has loaded keys of the master key of this id, 0 after they were "
           "removed.", ("key",)),
    Metric("iot_audit_recorded_total", "counter", "api",
           "Events that API processes added to the audit log."),
    Metric("iot_audit_unrecorded_total", "counter", "api",
           "Events that are not in the audit log, because it could not be written."),
    Metric("iot_drains_total", "counter", "writer",
           "Drains of a shard, by outcome.", ("outcome",),
           initial_labels=("stored", "repeated", "empty", "busy", "held", "erased",
                     "postgres_away", "redis_away", "failed")),
    Metric("iot_job_last_success_timestamp_seconds", "gauge", "writer",
           "Unix time of this process's last success of an hourly job; 0: none yet.",
           ("job_name",),
           initial_labels=("partitions", "retention")),
    Metric("iot_drain_seconds", "histogram", "writer",
           "Duration of a drain, in seconds."),
    Metric("iot_readings_stored_total", "counter", "writer",
           "Readings committed to Postgres."),
    Metric("iot_segments_stored_total", "counter", "writer",
           "Segments committed to Postgres."),
    Metric("iot_drain_written_bytes_total", "counter", "writer",
           "Encrypted bytes of the segments that drains committed to Postgres."),
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
           "Shards that Postgres had as of an older moment than Redis: it was restored, or a "
           "replica took over that lacked the newest transactions."),
    Metric("iot_hot_window_missed_total", "counter", "writer",
           "Drains whose segments could not be written to the hot window; reads then use "
           "Postgres."),
    Metric("iot_stored_after_seconds", "histogram", "writer",
           "Time from acknowledged to stored, of each drain's oldest entry, in seconds."),
    Metric("iot_compactions_total", "counter", "writer",
           "Orders to merge small segments, by outcome.", ("outcome",),
           initial_labels=("merged", "gone", "damaged", "refused", "empty",
                     "postgres_away", "redis_away", "failed")),
    Metric("iot_segments_compacted_total", "counter", "writer",
           "Small segments replaced by merged ones."),
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
)  # fmt: skip

_BY_NAME = {metric.name: metric for metric in METRICS}


def spec_of(name: str) -> Metric:
    """Return the declaration of a metric. Raises `KeyError` for an undeclared name."""
    return _BY_NAME[name]


@cache
def counter(name: str) -> Counter:
    """Return the counter of that name. A process has one."""
    metric = spec_of(name)
    made = Counter(metric.name, metric.meaning, metric.labels)
    for value in metric.initial_labels:
        made.labels(value)
    return made


@cache
def gauge(name: str) -> Gauge:
    """Return the gauge of that name. A process has one."""
    metric = spec_of(name)
    made = Gauge(metric.name, metric.meaning, metric.labels, multiprocess_mode=metric.of_processes)
    for value in metric.initial_labels:
        made.labels(value)
    return made


@cache
def histogram(name: str) -> Histogram:
    """Return the histogram of that name. A process has one."""
    metric = spec_of(name)
    return Histogram(metric.name, metric.meaning, metric.labels, buckets=_SECONDS)


def value_of(name: str) -> float:
    """Return the value of a counter in this process: the sum over its labels."""
    (family,) = counter(name).collect()
    return sum(sample.value for sample in family.samples if sample.name == name)


def create_metrics(service: str) -> None:
    """Create the metrics of a service, so that they are exported as 0 from the start.

    A counter that appears with the value 1 would show no increase in Prometheus.
    """
    for metric in METRICS:
        if metric.service != service:
            continue
        if metric.kind == "counter":
            counter(metric.name)
        elif metric.kind == "histogram":
            histogram(metric.name)
        elif metric.initial_labels:  # the values of other gauges are read when they are scraped
            gauge(metric.name)
