"""The capacity model: what a fleet of devices needs, and which limit it reaches first.

The constants are in `costs.py`. The benchmark has measured most of them. The model ignores the time
that entries wait in queues, which `bench.simulator` simulates.
"""

import math
from dataclasses import dataclass

from iot_models.settings import MIN_BACKLOG_BYTES

from .costs import Costs

DAY = 86_400
PROCESSES = 2
"""Number of processes of an API pod."""
SPARE = 1
"""Number of spare API pods, and of spare writers."""
MICRO = 1e-6


@dataclass(frozen=True, slots=True)
class Demand:
    """The load of a fleet of devices, and the settings that matter for its cost."""

    devices: int
    rate: float = 1.0
    """Readings a second of each device."""
    batch: int = 1
    """Readings per request."""
    devices_per_vault: int = 1
    retention_days: int = 365
    outage_seconds: int = 1800
    """Longest outage of Postgres during which the API accepts readings."""
    hot_window_seconds: int = 300
    idempotent: bool = False
    """Whether requests have an Idempotency-Key."""
    sticky: bool = False
    """Whether all requests of a device reach the same API process, so that no other process opens
    the device's vault."""
    vault_cache_seconds: int = 3600
    vault_cache_size: int = 50_000

    @property
    def readings(self) -> float:
        """Readings per second that the fleet sends."""
        return self.devices * self.rate

    @property
    def requests(self) -> float:
        """Requests per second that the fleet sends."""
        return self.readings / self.batch

    @property
    def vaults(self) -> int:
        """Number of passwords in use."""
        return math.ceil(self.devices / self.devices_per_vault)


@dataclass(frozen=True, slots=True)
class Need:
    """A figure of `Capacity.needs`: a rate of the load, or a resource that the load needs."""

    part: str
    name: str
    value: float
    unit: str


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit of one release, and how much of it a load uses."""

    name: str
    used: float
    """Used share of the limit; above 1 the limit is exceeded."""
    remedy: str
    hard: bool = True
    """False if a setting can raise the limit. `Capacity.releases` uses only hard limits."""


class Capacity:
    """The resources that a load needs."""

    def __init__(self, demand: Demand) -> None:
        self.demand = demand
        self.costs = Costs()
        self.segments = self._segments()
        self.processes, self.opening = self._processes()

    # --- Rates per second -------------------------------------------------------------------------

    @property
    def shards(self) -> int:
        """Number of shards: twice the busy writers, because vaults spread unevenly over shards.

        Rounded up to a power of two; at least the default of `IOT_SHARDS`, at most
        `Costs.max_shards`.
        """
        wanted = 2 * self._busy_writers()
        rounded: int = 1 << max(3, (wanted - 1).bit_length())
        return min(self.costs.max_shards, rounded)

    @property
    def drains(self) -> float:
        """Drains per second: one per linger for each busy writer, but at most one per request."""
        return min(self._busy_writers() / self.costs.linger, self.demand.requests)

    @property
    def jobs(self) -> float:
        """RQ jobs per second.

        A job runs drains for a second, but ends early if no entry arrives during a linger.
        """
        idle = math.exp(-self.demand.requests * self.costs.linger)
        return self.drains * idle + self._busy_writers() / self.costs.job_seconds * (1 - idle)

    def _busy_writers(self) -> int:
        """Return how many writers are needed to store and compact the readings.

        The cost of drains and jobs is left out, because their numbers depend on this result.
        """
        return math.ceil(self._storing_cores() / self.costs.busy)

    def _segments(self) -> float:
        """Return the segments per second: a drain writes one for each vault among its entries."""
        demand, linger = self.demand, self.costs.linger
        share_with_entries = 1 - math.exp(-demand.requests / demand.vaults * linger)
        full = demand.readings / 10_000
        return max(demand.vaults * share_with_entries / linger, full)

    # --- CPU, in cores ---------------------------------------------------------------------------

    def _processes(self) -> tuple[int, float]:
        """Return the number of API processes needed, and the cores they spend on opening vaults.

        Without sticky routing (`Demand.sticky`), every process opens the vault of every device. So
        more processes spend more cores on opening vaults.
        """
        processes = 1
        while True:
            opening = self._opening_cores(processes)
            needed = math.ceil(self._api_cores(opening) / self.costs.busy)
            if needed <= processes:
                return processes, opening
            processes = max(processes + 1, min(needed, processes * 21 // 20))

    def _opening_cores(self, processes: int) -> float:
        demand, costs = self.demand, self.costs
        processes_a_vault = 1 if demand.sticky else processes
        uses_a_second = demand.requests / demand.vaults / processes_a_vault
        open_vaults = demand.vaults / processes if demand.sticky else demand.vaults
        if open_vaults > demand.vault_cache_size:
            # The cache evicts a vault before its next use.
            return MICRO * demand.requests * costs.api_open
        if 1 / uses_a_second > demand.vault_cache_seconds:
            # A vault expires in the cache before its next use.
            return MICRO * demand.requests * costs.api_open
        renewals = demand.vaults * processes_a_vault / (costs.renew_seconds + 1 / uses_a_second)
        return MICRO * renewals * costs.api_renew

    def _api_cores(self, opening: float) -> float:
        costs, demand = self.costs, self.demand
        work = demand.requests * costs.api_entry + demand.readings * costs.api_reading
        return MICRO * work + opening

    @property
    def api_cores(self) -> float:
        """Cores that all API processes use."""
        return self._api_cores(self.opening)

    def _storing_cores(self) -> float:
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
        """Cores that all writers use, including compaction."""
        costs = self.costs
        drains = self.drains * costs.writer_drain + self.jobs * costs.writer_job
        return self._storing_cores() + MICRO * drains

    @property
    def redis_cores(self) -> float:
        """Cores needed for the commands of Redis. One Redis can use at most `Costs.redis_cores`."""
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
        """Cores that Postgres uses for ingest. Reads are not included."""
        costs, demand = self.costs, self.demand
        rewrites = 1 + self._rewrites()
        return MICRO * (
            demand.requests * costs.postgres_entry
            + demand.readings * costs.postgres_reading * rewrites
            + self.segments * costs.postgres_segment * 2  # inserted, later deleted
            + self.drains * costs.postgres_drain
        )

    # --- Memory, disk and network, in bytes ------------------------------------------------------

    @property
    def backlog(self) -> float:
        """Bytes of the backlog after Postgres was unavailable for `Demand.outage_seconds`.

        At least the size of one request, and above the minimum of `IOT_BACKLOG_MAX_BYTES`.
        """
        costs, demand = self.costs, self.demand
        request = costs.queued_entry + demand.batch * costs.queued_reading
        return max(
            1.05 * MIN_BACKLOG_BYTES,  # shown as 1.1 MB; the minimum, shown as 1.0 MB, is 1.049 MB
            request * max(1, demand.requests * demand.outage_seconds),
        )

    @property
    def hot_window(self) -> float:
        """Bytes of the hot window of all shards."""
        costs, demand = self.costs, self.demand
        a_second = self.segments * costs.hot_segment + demand.readings * costs.stored_reading
        return a_second * demand.hot_window_seconds

    @property
    def redis_memory(self) -> float:
        """Bytes of memory that Redis needs."""
        costs, demand = self.costs, self.demand
        keys = demand.requests * DAY * costs.remembered if demand.idempotent else 0.0
        return self.backlog + self.hot_window + demand.vaults * costs.vault_record + keys

    @property
    def merged(self) -> float:
        """Readings per segment, after compaction has merged the segments of a day."""
        demand, costs = self.demand, self.costs
        written = demand.readings / self.segments
        if written >= costs.small_readings:
            return written
        a_day = demand.readings / demand.vaults * DAY
        return max(written, min(costs.merged_readings, a_day))

    def _rewrites(self) -> float:
        """Return how often compaction rewrites a reading.

        The model assumes that compaction first merges 64 segments, and that each later merge
        doubles the merged segment.
        """
        growth = self.merged * self.segments / self.demand.readings
        return 0.0 if growth < 2 else 1 + max(0.0, math.log2(growth / 64))

    @property
    def disk_a_day(self) -> float:
        """Bytes by which Postgres grows in a day, after compaction."""
        costs, demand = self.costs, self.demand
        readings = demand.readings * DAY
        return readings * costs.stored_reading + readings / self.merged * costs.stored_segment

    @property
    def disk(self) -> float:
        """Bytes of Postgres after `Demand.retention_days`.

        If segments are compacted, the small segments of one day, which wait for compaction, are
        included.
        """
        costs, demand = self.costs, self.demand
        small = self.segments * DAY * costs.stored_segment if self._rewrites() else 0.0
        vaults = demand.vaults * costs.stored_vault
        return self.disk_a_day * demand.retention_days + small + vaults

    @property
    def wal(self) -> float:
        """Bytes of WAL per second."""
        costs, demand = self.costs, self.demand
        stored = demand.readings * costs.stored_reading * (1 + self._rewrites())
        return (stored + self.segments * costs.stored_segment) * costs.wal_factor

    @property
    def network_in(self) -> float:
        """Bytes per second between devices and the API: requests and their answers."""
        costs, demand = self.costs, self.demand
        return demand.requests * costs.http_entry + demand.readings * costs.json_reading

    @property
    def network_redis(self) -> float:
        """Bytes per second to Redis (entries, segments of the hot window) and from it (entries)."""
        costs, demand = self.costs, self.demand
        queued = demand.requests * costs.queued_entry + demand.readings * costs.queued_reading
        return 2 * queued + self.hot_window / max(1, demand.hot_window_seconds)

    # --- The result ------------------------------------------------------------------------------

    @property
    def pods(self) -> int:
        """Number of API pods."""
        return math.ceil(self.processes / PROCESSES) + SPARE

    @property
    def writers(self) -> int:
        """Number of writers, at most one for each shard."""
        return min(self.shards, math.ceil(self.writer_cores / self.costs.busy) + SPARE)

    def needs(self) -> list[Need]:
        """Return the rates of the load, then the needed resources, grouped by part."""
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
        """Return the limits of one release, those with the greatest use first."""
        costs, demand = self.costs, self.demand
        open_vaults = demand.vaults / (self.processes if demand.sticky else 1)
        limits = [
            Limit("open vaults of an API process", open_vaults / demand.vault_cache_size,
                  "raise IOT_VAULT_CACHE_SIZE; route each device to "
                  "one process; share passwords", hard=False),
            Limit("CPU of Redis", self.redis_cores / costs.redis_cores / costs.busy,
                  "send larger batches; give the hot window its own Redis; run several releases"),
            Limit("memory of Redis", self.redis_memory / costs.redis_memory,
                  "send larger batches; plan a shorter outage or hot window; run several releases"),
            Limit("network of Redis", self.network_redis / costs.network / costs.busy,
                  "send larger batches; run several releases"),
            Limit("writers, one for each shard", self.writer_cores / costs.busy / costs.max_shards,
                  "send larger batches; run several releases"),
            Limit("CPU of Postgres", self.postgres_cores / costs.postgres_cores / costs.busy,
                  "send larger batches; shard Postgres by vault (Citus); run several releases"),
            Limit("rows of Postgres", self.segments / costs.postgres_rows,
                  "send larger batches; shard Postgres by vault (Citus); run several releases"),
            Limit("disk of Postgres", self.disk / costs.postgres_disk,
                  "shorten the retention; shard Postgres by vault (Citus); run several releases"),
        ]  # fmt: skip
        return sorted(limits, key=lambda limit: -limit.used)

    @property
    def releases(self) -> int:
        """Number of releases that together carry the load and exceed no limit (`Limit.hard`)."""
        return max(1, math.ceil(max(limit.used for limit in self.limits() if limit.hard)))
