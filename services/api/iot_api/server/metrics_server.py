"""The metrics server: `/metrics` on its own port, for all workers of the pod together.

It is a separate process. The workers write their metrics to files in one folder.
"""

import os
import sys
import time
from collections.abc import Iterator
from functools import partial

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from redis import Redis
from redis.exceptions import RedisError

from iot_models import monitoring
from iot_models.errors import SettingsError
from iot_models.metrics import spec_of
from iot_models.settings import Settings, load
from iot_stores.backlog import Backlog, BacklogState
from iot_stores.clocks import redis_ahead
from iot_stores.postgres import connect_postgres
from iot_stores.stores import Stores


class BacklogCollector(Collector):
    """A collector that queries the backlog and the clock of Redis at each scrape.

    While Redis is unavailable, only the limit and `iot_backlog_up` (0) are reported.
    """

    def __init__(self, client: "Redis", backlog: Backlog, *, limit: int) -> None:
        self._client = client
        self._backlog = backlog
        self._limit = limit

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauges of the backlog and of the clock."""
        yield _gauge("iot_backlog_limit_bytes", self._limit)
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
        yield _entries(state)


def _gauge(name: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, spec_of(name).meaning, value=value)


def _entries(state: BacklogState) -> GaugeMetricFamily:
    each = spec_of("iot_backlog_entries")
    family = GaugeMetricFamily(each.name, each.meaning, labels=each.labels)
    for shard, count in state.entries.items():
        family.add_metric([str(shard)], count)
    return family


def main() -> int:
    """Serve until the parent process, gunicorn's master, ends. Return 2 if a setting is wrong.

    `/healthz` reports this process only: gunicorn's master restarts workers that hang.
    """
    parent = os.getppid()
    try:
        _serve(load())
    except SettingsError as error:
        print(f"iot-api: {error}", file=sys.stderr)
        return 2
    while os.getppid() == parent:
        time.sleep(1)
    return 0


def _serve(settings: Settings) -> None:
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    stores = Stores(settings, partial(connect_postgres, settings, name="iot-api metrics"))
    registry.register(
        BacklogCollector(stores.redis, stores.backlog, limit=settings.backlog_max_bytes)
    )
    monitoring.serve(
        "IOT_API_METRICS_PORT",
        settings.metrics_address,
        settings.api_metrics_port,
        {"/healthz": lambda: (True, {"status": "ok"})},
        registry,
    )


if __name__ == "__main__":
    sys.exit(main())
