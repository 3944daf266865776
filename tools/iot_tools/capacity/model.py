"""The capacity model: what a number of devices needs, and which limit stands in the way first.

Arithmetic on measured costs, stage by stage. It knows no queueing: `bench.simulator` does.
"""

import math
from dataclasses import dataclass

from .costs import Costs

DAY = 86_400
PROCESSES = 2
"""Of an API pod."""
SPARE = 1
"""Pods, or writers, that may be gone."""
MICRO = 1e-6


@dataclass(frozen=True, slots=True)
class Demand:
    """What is asked of the service."""

    devices: int
    rate: float = 1.0
    """Readings a second of each device."""
    batch: int = 1
    """Readings a request."""
    devices_per_vault: int = 1
    retention_days: int = 365
    outage_seconds: int = 1800
    """How long Postgres may be away without a refusal."""
    hot_window_seconds: int = 300
    idempotent: bool = False
    """Whether requests have an Idempotency-Key."""
    sticky: bool = False
    """Whether a device's requests come to one API process, so that one opens its vault."""
    vault_cache_seconds: int = 3600
    vault_cache_size: int = 50_000

    @property
    def readings(self) -> float:
        """A second."""
        return self.devices * self.rate

    @property
    def requests(self) -> float:
        """A second."""
        return self.readings / self.batch

    @property
    def vaults(self) -> int:
        """Passwords in use."""
        return math.ceil(self.devices / self.devices_per_vault)


@dataclass(frozen=True, slots=True)
class Need:
    """One figure of the answer."""

    part: str
    name: str
    value: float
    unit: str


@dataclass(frozen=True, slots=True)
class Limit:
    """Something that one release can't grow beyond."""

    name: str
    used: float
    """Share of it that is used: above 1 it stands in the way."""
    remedy: str
    hard: bool = True
    """Whether nothing but another release, or another database, goes beyond it."""


class Capacity:
    """What a demand needs."""

    def __init__(self, demand: Demand, costs: Costs | None = None) -> None:
        self.demand = demand
        self.costs = costs or Costs()
        self.segments = self._segments()
        self.processes, self.opening = self._processes()

    # --- Rates, a second -------------------------------------------------------------------------

    @property
    def shards(self) -> int:
        """Twice as many as writers need: vaults are not spread evenly. At least the default."""
        wanted = 2 * self._busy()
        rounded: int = 1 << max(3, (wanted - 1).bit_length())
        return min(self.costs.most_shards, rounded)

    @property
    def drains(self) -> float:
        """A writer drains once in its linger at most, and not more often than requests come."""
        return min(self._busy() / self.costs.linger, self.demand.requests)

    @property
    def jobs(self) -> float:
        """One goes on with drains for a second, or until nothing came within a linger."""
        idle = math.exp(-self.demand.requests * self.costs.linger)
        return self.drains * idle + self._busy() / self.costs.job_seconds * (1 - idle)

    def _busy(self) -> int:
        """Writers that have something to do, drains and jobs not counted."""
        return math.ceil(self._stored() / self.costs.busy)

    def _segments(self) -> float:
        """A drain makes one for each vault that it meets."""
        demand, linger = self.demand, self.costs.linger
        met = 1 - math.exp(-demand.requests / demand.vaults * linger)
        full = demand.readings / 10_000
        return max(demand.vaults * met / linger, full)

    # --- CPU, in cores ---------------------------------------------------------------------------

    def _processes(self) -> tuple[int, float]:
        """The fewest API processes that do, and what opening vaults takes of them, in cores: the
        more there are, the fewer devices come to each, but the more of them have a vault open.
        """
        processes = 1
        while True:
            opening = self._opening(processes)
            needed = math.ceil(self._api(opening) / self.costs.busy)
            if needed <= processes:
                return processes, opening
            processes = max(processes + 1, min(needed, processes * 21 // 20))

    def _opening(self, processes: int) -> float:
        demand, costs = self.demand, self.costs
        meets = 1 if demand.sticky else processes
        each = demand.requests / demand.vaults / meets
        held = demand.vaults / processes if demand.sticky else demand.vaults
        if held > demand.vault_cache_size:
            # What is asked for has been pushed out by then.
            return MICRO * demand.requests * costs.api_open
        if 1 / each > demand.vault_cache_seconds:
            # Its time is over before it is used again.
            return MICRO * demand.requests * costs.api_open
        renewals = demand.vaults * meets / (costs.renew_seconds + 1 / each)
        return MICRO * renewals * costs.api_renew

    def _api(self, opening: float) -> float:
        costs, demand = self.costs, self.demand
        work = demand.requests * costs.api_entry + demand.readings * costs.api_reading
        return MICRO * work + opening

    @property
    def api_cores(self) -> float:
        """Used, of all API processes."""
        return self._api(self.opening)

    def _stored(self) -> float:
        costs, demand = self.costs, self.demand
        merged = demand.readings * self._rewrites() * costs.writer_reading
        return MICRO * (
            demand.requests * costs.writer_entry
            + demand.readings * costs.writer_reading
            + self.segments * costs.writer_segment
            + merged
        )

    @property
    def writer_cores(self) -> float:
        """Used, of all writers, compaction counted."""
        costs = self.costs
        drains = self.drains * costs.writer_drain + self.jobs * costs.writer_job
        return self._stored() + MICRO * drains

    @property
    def redis_cores(self) -> float:
        """Used, of the one that Redis has."""
        costs, demand = self.costs, self.demand
        return MICRO * (
            demand.requests * costs.redis_entry
            + demand.readings * costs.redis_reading
            + self.segments * costs.redis_segment
            + self.drains * costs.redis_drain
            + self.jobs * costs.redis_job
        )

    @property
    def postgres_cores(self) -> float:
        """Used by ingest; reads come on top."""
        costs, demand = self.costs, self.demand
        rewrites = 1 + self._rewrites()
        return MICRO * (
            demand.requests * costs.postgres_entry
            + demand.readings * costs.postgres_reading * rewrites
            + self.segments * costs.postgres_segment * 2  # and deleted, once they are merged
            + self.drains * costs.postgres_drain
        )

    # --- Memory, disk and network, in bytes ------------------------------------------------------

    @property
    def backlog(self) -> float:
        """Waiting when Postgres was away for as long as it may be."""
        costs, demand = self.costs, self.demand
        a_second = demand.requests * costs.queued_entry + demand.readings * costs.queued_reading
        return a_second * demand.outage_seconds

    @property
    def hot_window(self) -> float:
        """Of all shards."""
        costs, demand = self.costs, self.demand
        a_second = self.segments * costs.hot_segment + demand.readings * costs.stored_reading
        return a_second * demand.hot_window_seconds

    @property
    def redis_memory(self) -> float:
        """All that Redis holds."""
        costs, demand = self.costs, self.demand
        keys = demand.requests * DAY * costs.remembered if demand.idempotent else 0.0
        return self.backlog + self.hot_window + demand.vaults * costs.vault_record + keys

    @property
    def merged(self) -> float:
        """Readings a segment once its day is over."""
        demand, costs = self.demand, self.costs
        written = demand.readings / self.segments
        if written >= costs.small_readings:
            return written
        a_day = demand.readings / demand.vaults * DAY
        return max(written, min(costs.merged_readings, a_day))

    def _rewrites(self) -> float:
        """How often a reading is written again: each time its segment at least doubles, from the
        64 small ones on with which compaction begins.
        """
        growth = self.merged * self.segments / self.demand.readings
        return 0.0 if growth < 2 else 1 + max(0.0, math.log2(growth / 64))

    @property
    def disk_a_day(self) -> float:
        """Postgres, once segments are merged."""
        costs, demand = self.costs, self.demand
        readings = demand.readings * DAY
        return readings * costs.stored_reading + readings / self.merged * costs.stored_segment

    @property
    def disk(self) -> float:
        """Postgres at the end of the retention, a day's small segments included."""
        costs, demand = self.costs, self.demand
        small = self.segments * DAY * costs.stored_segment if self._rewrites() else 0.0
        vaults = demand.vaults * costs.stored_vault
        return self.disk_a_day * demand.retention_days + small + vaults

    @property
    def wal(self) -> float:
        """A second."""
        costs, demand = self.costs, self.demand
        stored = demand.readings * costs.stored_reading * (1 + self._rewrites())
        return (stored + self.segments * costs.stored_segment) * costs.wal_factor

    @property
    def network_in(self) -> float:
        """A second, from devices and back."""
        costs, demand = self.costs, self.demand
        return demand.requests * costs.http_entry + demand.readings * costs.json_reading

    @property
    def network_redis(self) -> float:
        """A second, in and out: to the queue, to the writer, to the hot window."""
        costs, demand = self.costs, self.demand
        queued = demand.requests * costs.queued_entry + demand.readings * costs.queued_reading
        return 2 * queued + self.hot_window / max(1, demand.hot_window_seconds)

    # --- The answer ------------------------------------------------------------------------------

    @property
    def pods(self) -> int:
        """Of the API."""
        return math.ceil(self.processes / PROCESSES) + SPARE

    @property
    def writers(self) -> int:
        """Never more than shards."""
        return min(self.shards, math.ceil(self.writer_cores / self.costs.busy) + SPARE)

    def needs(self) -> list[Need]:
        """The whole table."""
        demand = self.demand
        return [
            Need("load", "readings", demand.readings, "/s"),
            Need("load", "requests", demand.requests, "/s"),
            Need("load", "segments", self.segments, "/s"),
            Need("API", "CPU", self.api_cores, "cores"),
            Need("API", "of which for opening vaults", self.opening, "cores"),
            Need("API", f"pods of {PROCESSES} processes", self.pods, ""),
            Need("writers", "CPU", self.writer_cores, "cores"),
            Need("writers", "pods", self.writers, ""),
            Need("writers", "shards", self.shards, ""),
            Need("Redis", "CPU", self.redis_cores, "cores"),
            Need("Redis", "memory", self.redis_memory, "bytes"),
            Need("Redis", "of which backlog (IOT_BACKLOG_MAX_BYTES)", self.backlog, "bytes"),
            Need("Redis", "of which hot window", self.hot_window, "bytes"),
            Need("Postgres", "CPU", self.postgres_cores, "cores"),
            Need("Postgres", "rows", self.segments, "/s"),
            Need("Postgres", "WAL", self.wal, "bytes/s"),
            Need("Postgres", "disk a day", self.disk_a_day, "bytes"),
            Need("Postgres", f"disk for {demand.retention_days} days", self.disk, "bytes"),
            Need("network", "devices to API", self.network_in, "bytes/s"),
            Need("network", "in and out of Redis", self.network_redis, "bytes/s"),
        ]  # fmt: skip

    def limits(self) -> list[Limit]:
        """Of one release, the nearest first."""
        costs, demand = self.costs, self.demand
        held = demand.vaults / (self.processes if demand.sticky else 1)
        limits = [
            Limit("open vaults of an API process", held / demand.vault_cache_size,
                  "raise IOT_VAULT_CACHE_SIZE; route each device to "
                  "one process; share passwords", hard=False),
            Limit("CPU of Redis", self.redis_cores / costs.redis_cores / costs.busy,
                  "batches; the hot window on a Redis of its own; several releases"),
            Limit("memory of Redis", self.redis_memory / costs.redis_memory,
                  "batches; a shorter outage or hot window; several releases"),
            Limit("network of Redis", self.network_redis / costs.network / costs.busy,
                  "batches; several releases"),
            Limit("writers, one for each shard", self.writer_cores / costs.busy / costs.most_shards,
                  "batches; several releases"),
            Limit("CPU of Postgres", self.postgres_cores / costs.postgres_cores / costs.busy,
                  "batches; a database by vault (Citus); several releases"),
            Limit("rows of Postgres", self.segments / costs.postgres_rows,
                  "batches; a database by vault (Citus); several releases"),
            Limit("disk of Postgres", self.disk / costs.postgres_disk,
                  "shorter retention; a database by vault (Citus); several releases"),
        ]  # fmt: skip
        return sorted(limits, key=lambda limit: -limit.used)

    @property
    def releases(self) -> int:
        """Releases over which devices are to be spread, so that each stays below its limits, but
        for what a setting or a way of routing mends.
        """
        return max(1, math.ceil(max(each.used for each in self.limits() if each.hard)))
