"""The metrics of a process: created by name, as `declared_metrics` declares them."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib.metadata import version
from platform import python_version

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client import Metric as Family
from prometheus_client.registry import Collector

from .declared_metrics import METRICS, Metric

_BUCKETS = {
    "seconds": (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
    "bytes": tuple(2.0**power for power in range(8, 25, 2)),  # 256 B to 16 MiB
    "readings": (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000),
}
"""Upper bounds of the buckets of a histogram, by its unit; one more bucket has no bound."""
_LONG = (*_BUCKETS["seconds"], 30, 60, 300, 1800, 7200)
_LONG_NAMES = {
    "iot_drain_seconds",
    "iot_stored_after_seconds",
    "iot_readable_after_seconds",
    "iot_live_delay_seconds",
    "iot_canary_round_trip_seconds",
}
"""Histograms with the buckets `_LONG`: they measure times that may be as long as an outage."""

UNITS = {metric.family: metric.unit for metric in METRICS}
"""The unit of each metric, by the name of its family."""
_BY_NAME = {metric.name: metric for metric in METRICS}


def spec_of(name: str) -> Metric:
    """Return the declaration of a metric. Raises `KeyError` for an undeclared name."""
    return _BY_NAME[name]


def _bounds(metric: Metric) -> Sequence[float]:
    return _LONG if metric.name in _LONG_NAMES else _BUCKETS[metric.unit]


@cache
def counter(name: str) -> Counter:
    """Return the counter `name`. All calls return the same object."""
    metric = spec_of(name)
    made = Counter(metric.name, metric.meaning, metric.labels, unit=metric.unit)
    for value in metric.initial_labels:
        made.labels(value)
    return made


@cache
def gauge(name: str) -> Gauge:
    """Return the gauge `name`. All calls return the same object."""
    metric = spec_of(name)
    made = Gauge(
        metric.name,
        metric.meaning,
        metric.labels,
        unit=metric.unit,
        multiprocess_mode=metric.of_processes,
    )
    for value in metric.initial_labels:
        made.labels(value)
    return made


@cache
def histogram(name: str) -> Histogram:
    """Return the histogram `name`. All calls return the same object."""
    metric = spec_of(name)
    made = Histogram(
        metric.name, metric.meaning, metric.labels, unit=metric.unit, buckets=_bounds(metric)
    )
    for value in metric.initial_labels:
        made.labels(value)
    return made


def observe_all(name: str, values: Sequence[float], *labels: str) -> None:
    """Add values to a histogram, ten times as fast as with one call of `observe` per value."""
    bounds = _bounds(spec_of(name))
    counts = [0] * (len(bounds) + 1)
    for value in values:
        counts[bisect_left(bounds, value)] += 1
    observed = histogram(name).labels(*labels) if labels else histogram(name)
    observed._sum.inc(sum(values))  # noqa: SLF001 - prometheus_client takes one value at a time
    for bucket, count in zip(observed._buckets, counts, strict=True):  # noqa: SLF001
        if count:
            bucket.inc(count)


_pending: list[Callable[[], None]] = []


def at_flush(add: Callable[[], None]) -> None:
    """Register a function that each `flush` calls, to add its pending counts to the metrics."""
    _pending.append(add)


def flush() -> None:
    """Add all pending counts to the metrics, by calling the functions registered with `at_flush`.

    A worker of the API flushes several times a second and when it ends. Other processes flush when
    their metrics are read.
    """
    for add in _pending:
        add()


class PendingCount:
    """A number that the next flush adds to a counter.

    Incrementing `value` costs a tenth of incrementing a `Counter`, which takes a lock and writes to
    a mapped file. Only one thread may increment `value`.
    """

    __slots__ = ("_counter", "value")

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self.value = 0
        at_flush(self._flush)

    def _flush(self) -> None:
        value, self.value = self.value, 0
        if value:
            self._counter.inc(value)


@cache
def pending_count(name: str) -> PendingCount:
    """Return the `PendingCount` of a counter without labels. All calls return the same object."""
    return PendingCount(counter(name))


class PendingObservations:
    """Observations that the next flush adds to a histogram without labels. See `PendingCount`."""

    __slots__ = ("_name", "values")

    def __init__(self, name: str) -> None:
        self._name = name
        self.values: list[float] = []
        at_flush(self._flush)

    def _flush(self) -> None:
        if self.values:
            values, self.values = self.values, []
            observe_all(self._name, values)


@cache
def pending_observations(name: str) -> PendingObservations:
    """Return the `PendingObservations` of a histogram without labels, always the same object."""
    return PendingObservations(name)


class _FlushWhenRead(Collector):
    def collect(self) -> Iterable[Family]:
        flush()
        return ()


REGISTRY.register(_FlushWhenRead())  # first: collectors are read in the order of registration


def value_of(name: str) -> float:
    """Return the value of a counter, or the sum of a histogram's observations, in this process.

    Values of different labels are added up.
    """
    flush()
    is_counter = spec_of(name).kind == "counter"
    (family,) = (counter(name) if is_counter else histogram(name)).collect()
    wanted = name if is_counter else f"{name}_sum"
    return sum(sample.value for sample in family.samples if sample.name == wanted)


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


def build_labels() -> tuple[str, str]:
    """Return the versions of iot-sensor and of Python."""
    return version("iot-models"), python_version()


def export_build(name: str) -> None:
    """Export the versions of iot-sensor and of Python as labels of the gauge `name`."""
    gauge(name).labels(*build_labels()).set(1)
