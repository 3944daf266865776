"""The metrics server: `/metrics` on its own port, for all workers of the pod together.

It is a separate process. The workers write their metrics to files in one folder.
"""

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from redis.exceptions import RedisError

from iot_models import logs, metrics, monitoring
from iot_models.errors import SettingsError
from iot_models.metrics import UNITS, spec_of
from iot_models.settings import Settings, load, load_one
from iot_stores.clocks import redis_ahead
from iot_stores.hot_window import HotWindow
from iot_stores.postgres import connect_postgres
from iot_stores.stores import Stores


class _FilesCollector(MultiProcessCollector):
    """A collector that skips empty files.

    A worker creates a file and then sets its size. A scrape in between would fail. If the worker is
    killed in between, all later scrapes would fail.
    """

    @staticmethod
    def merge(files: Iterable[str], accumulate: bool = True) -> Iterable[Metric]:
        """Return the metrics in the files."""
        filled = [file for file in files if _size(Path(file)) > 0]
        merged: Iterable[Metric] = MultiProcessCollector.merge(filled, accumulate)  # type: ignore[no-untyped-call]
        return merged


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # the gauges of a worker that has ended
        return 0


class WorkersCollector(Collector):
    """A collector of the metrics of all workers.

    It adds the units of the metrics, because the files of prometheus_client have none. The files
    have no exemplars either (docs/metrics.md#exemplars).
    """

    def __init__(self) -> None:
        self._files = _FilesCollector(None)  # type: ignore[no-untyped-call]

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of all workers."""
        for family in self._files.collect():  # type: ignore[no-untyped-call]
            family.unit = UNITS.get(family.name, "")
            yield family


class BacklogCollector(Collector):
    """A collector that queries the backlog, the hot window and the clock of Redis at each scrape.

    While Redis is away, it yields only the build, the settings, and `iot_backlog_up` as 0. A scrape
    leaves no connection open. After a failover, an open connection would still reach the old
    master, now a replica, and each scrape would show its figures.
    """

    def __init__(self, stores: Stores) -> None:
        self._settings = settings = stores.settings
        self._client = stores.redis
        self._hot_client = stores.hot_redis
        self._backlog = stores.backlog
        # Without `usable`: a `RedisWatch` for this Redis would query Postgres at the first scrape.
        self._hot_window = HotWindow(
            self._hot_client, stores.names, stores.backlog, seconds=settings.hot_window_seconds
        )

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauges."""
        build = _family("iot_api_build_info")
        build.add_metric(metrics.build_labels(), 1)
        yield build
        yield _gauge("iot_backlog_limit_bytes", self._settings.backlog_max_bytes)
        yield _gauge("iot_hot_window_seconds", self._settings.hot_window_seconds)
        try:
            yield from self._ask_redis()
        finally:
            for client in (self._client, self._hot_client):
                client.connection_pool.disconnect_free_connections()

    def _ask_redis(self) -> Iterator[GaugeMetricFamily]:
        try:
            state = self._backlog.state()
            skew = redis_ahead(self._client)
        except RedisError:
            yield _gauge("iot_backlog_up", 0)
            return
        yield _gauge("iot_backlog_up", 1)
        yield _gauge("iot_backlog_bytes", state.bytes)
        yield _gauge("iot_backlog_oldest_seconds", state.oldest_seconds)
        yield _gauge("iot_dead_letters", state.dead_letters)
        yield _gauge("iot_api_clock_skew_seconds", skew)
        yield _gauge("iot_entries_held", state.held)
        yield _by_shard("iot_backlog_entries", state.entries)
        yield _by_shard("iot_backlog_shard_oldest_seconds", state.ages)
        try:
            covers = self._hot_window.covers(list(state.entries))
        except RedisError:  # the hot window may have its own Redis
            return
        yield _by_shard("iot_hot_window_cover_seconds", covers)


def _gauge(name: str, value: float) -> GaugeMetricFamily:
    family = _family(name)
    family.add_metric([], value)
    return family


def _family(name: str) -> GaugeMetricFamily:
    declared = spec_of(name)
    return GaugeMetricFamily(
        declared.name, declared.meaning, labels=declared.labels, unit=declared.unit
    )


def _by_shard(name: str, values: Mapping[int, float]) -> GaugeMetricFamily:
    family = _family(name)
    for shard, value in values.items():
        family.add_metric([str(shard)], value)
    return family


def main() -> int:
    """Serve until the parent process, gunicorn's master, ends. Return 2 if a setting is wrong.

    `/healthz` on the metrics server's port does not check the workers, because gunicorn's master
    restarts workers that hang.
    """
    parent = os.getppid()
    try:
        settings = load()
        logs.start(settings.log_format, settings.log_level)
        _serve(settings)
    except SettingsError as error:
        logs.last_line("iot-api", error, load_one("log_format"))
        return 2
    while os.getppid() == parent:
        time.sleep(1)
    return 0


def _serve(settings: Settings) -> None:
    registry = CollectorRegistry()
    registry.register(WorkersCollector())
    stores = Stores(settings, partial(connect_postgres, settings, name="iot-api metrics"))
    registry.register(BacklogCollector(stores))
    monitoring.serve(
        "IOT_API_METRICS_PORT",
        settings.metrics_address,
        settings.api_metrics_port,
        {"/healthz": lambda: (True, {"status": "ok"})},
        registry,
    )
