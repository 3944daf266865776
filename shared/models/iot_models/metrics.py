"""Every metric, declared once; a service makes those it uses by their names."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


@dataclass(frozen=True, slots=True)
class Declared:
    """A metric's name, kind, service, meaning and labels."""

    name: str
    kind: str
    service: str
    meaning: str
    labels: Sequence[str] = ()
    begins: Sequence[str] = ()
    """Values of its one label that stand at 0 before anything happens: a counter that appears with
    its first event shows no rise."""


DECLARED = (
    Declared("iot_http_requests_total", "counter", "api",
             "HTTP requests answered.", ("route", "method", "status")),
    Declared("iot_http_request_seconds", "histogram", "api",
             "Time from the request to the head of the answer, in seconds.", ("route", "method")),
    Declared("iot_connections_closed_total", "counter", "api",
             "Connections that the API closed on slow or silent clients, by reason: the phase in "
             "which the client was slow; room or memory, which other requests needed; refused, "
             "when all connections were busy.",
             ("reason",),
             begins=("new", "head", "idle", "body", "sending", "room", "memory", "refused")),
    Declared("iot_readings_acknowledged_total", "counter", "api",
             "Readings acknowledged with 201: they are in the backlog."),
    Declared("iot_readings_read_total", "counter", "api",
             "Readings returned by reads."),
    Declared("iot_vaults_opened_total", "counter", "api",
             "Vaults opened with their password (scrypt).", ("how",)),
    Declared("iot_vaults_moved_total", "counter", "api",
             "Vaults moved to a newer lookup or a higher scrypt cost."),
    Declared("iot_vaults_put_back_total", "counter", "api",
             "Vaults that Postgres lacked, put back from a record in memory or in Redis."),
    Declared("iot_vaults_replaced_total", "counter", "api",
             "Vaults in whose place Postgres has another vault of the same password."),
    Declared("iot_unknown_passwords_total", "counter", "api",
             "Unknown passwords: reads that found no vault, and PUTs that created one."),
    Declared("iot_reads_total", "counter", "api",
             "Reads, by the store that answered them.", ("source",)),
    Declared("iot_damaged_total", "counter", "api",
             "Segments or vault records that could not be opened, reads that met an id twice, "
             "and guess counters in Redis that are not numbers.",
             ("what",), begins=("segment", "vault", "vault_cache", "overlap", "guesses")),
    Declared("iot_backlog_bytes", "gauge", "api",
             "Size of the backlog, in sealed bytes."),
    Declared("iot_backlog_limit_bytes", "gauge", "api",
             "Maximum size of the backlog, in sealed bytes."),
    Declared("iot_backlog_entries", "gauge", "api",
             "Entries in the backlog.", ("shard",)),
    Declared("iot_backlog_oldest_seconds", "gauge", "api",
             "Age of the oldest entry in the backlog, in seconds; 0 when the backlog is empty."),
    Declared("iot_dead_letters", "gauge", "api",
             "Dead letters."),
    Declared("iot_entries_held", "gauge", "api",
             "Acknowledged entries that are not stored, because Postgres does not have their "
             "vaults."),
    Declared("iot_backlog_up", "gauge", "api",
             "1 if Redis answered the query for the backlog, else 0."),
    Declared("iot_api_clock_skew_seconds", "gauge", "api",
             "Seconds by which the clock of Redis is ahead of the pod's; negative: behind."),
    Declared("iot_drains_total", "counter", "writer",
             "Drains of a shard, by outcome.", ("outcome",),
             begins=("stored", "repeated", "empty", "busy", "held",
                     "postgres_away", "redis_away", "failed")),
    Declared("iot_job_last_success_timestamp_seconds", "gauge", "writer",
             "Unix time of this process's last success of an hourly job; 0: none yet.",
             ("job_name",),
             begins=("partitions", "retention")),
    Declared("iot_drain_seconds", "histogram", "writer",
             "Duration of a drain, in seconds."),
    Declared("iot_readings_stored_total", "counter", "writer",
             "Readings committed to Postgres."),
    Declared("iot_segments_stored_total", "counter", "writer",
             "Segments committed to Postgres."),
    Declared("iot_entries_repeated_total", "counter", "writer",
             "Entries that a drain met again after they were stored; they are not stored twice."),
    Declared("iot_entries_dead_total", "counter", "writer",
             "Entries set aside as dead letters."),
    Declared("iot_entries_held_total", "counter", "writer",
             "Entries held because Postgres did not have their vaults."),
    Declared("iot_ledger_behind_total", "counter", "writer",
             "Shards that Postgres had as of an older moment than Redis: it was restored, or a "
             "replica took over that lacked the newest transactions."),
    Declared("iot_hot_window_missed_total", "counter", "writer",
             "Drains whose segments could not be written to the hot window; reads then use "
             "Postgres."),
    Declared("iot_stored_after_seconds", "histogram", "writer",
             "Time from acknowledged to stored, of each drain's oldest entry, in seconds."),
    Declared("iot_compactions_total", "counter", "writer",
             "Orders to merge small segments, by outcome.", ("outcome",),
             begins=("merged", "gone", "damaged", "refused", "empty",
                     "postgres_away", "redis_away", "failed")),
    Declared("iot_segments_compacted_total", "counter", "writer",
             "Small segments replaced by merged ones."),
    Declared("iot_writer_clock_skew_seconds", "gauge", "writer",
             "Seconds by which the clock of Redis is ahead of the pod's; negative: behind."),
    Declared("iot_canary_sent_total", "counter", "canary",
             "Readings of the canary that were acknowledged."),
    Declared("iot_canary_lost_total", "counter", "canary",
             "Readings of the canary that were acknowledged and can't be read."),
    Declared("iot_canary_late_total", "counter", "canary",
             "Readings of the canary that were counted as lost and were read later."),
    Declared("iot_canary_doubled_total", "counter", "canary",
             "Readings of the canary that are stored more than once."),
    Declared("iot_canary_failures_total", "counter", "canary",
             "Requests of the canary that got no answer or an unexpected one."),
    Declared("iot_canary_round_trip_seconds", "histogram", "canary",
             "Time from sending a reading of the canary until it could be read, in seconds."),
)  # fmt: skip

_BY_NAME = {declared.name: declared for declared in DECLARED}


def declared(name: str) -> Declared:
    """What is declared under `name`; KeyError when nothing is."""
    return _BY_NAME[name]


@cache
def counter(name: str) -> Counter:
    """The declared counter of that name, one in a process."""
    each = declared(name)
    made = Counter(each.name, each.meaning, each.labels)
    for value in each.begins:
        made.labels(value)
    return made


@cache
def gauge(name: str) -> Gauge:
    """The declared gauge of that name, one in a process."""
    each = declared(name)
    made = Gauge(each.name, each.meaning, each.labels)
    for value in each.begins:
        made.labels(value)
    return made


@cache
def histogram(name: str) -> Histogram:
    """The declared histogram of that name, one in a process."""
    each = declared(name)
    return Histogram(each.name, each.meaning, each.labels, buckets=_SECONDS)


def begin(service: str) -> None:
    """Make the metrics of a service, so that they stand at zero before they count.

    One that came into being at one would have no increase that Prometheus could see.
    """
    for each in DECLARED:
        if each.service != service:
            continue
        if each.kind == "counter":
            counter(each.name)
        elif each.kind == "histogram":
            histogram(each.name)
        elif each.begins:  # the other gauges are asked for when they are scraped
            gauge(each.name)
