"""The metrics of requests: how many, and how long they take."""

from bisect import bisect_left
from functools import cache

from iot_models import metrics

_Labels = tuple[str, str, int]


class _Tally:
    """Requests with the same labels."""

    __slots__ = ("buckets", "count", "seconds")

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0
        self.buckets = [0] * (len(metrics.SECONDS) + 1)


class RequestMetrics:
    """The counters of requests and their durations.

    prometheus_client takes a lock and writes to a mapped file for each of them, so the metrics get
    the sums at their next flush.
    """

    def __init__(self) -> None:
        self.answered: list[tuple[str, str, int, float | None]] = []
        """Route, method, status and seconds of the requests since the last flush. Append to it. The
        seconds are None if a request failed before its time was taken."""
        self._requests = cache(metrics.counter("iot_http_requests_total").labels)
        self._seconds = cache(metrics.histogram("iot_http_request_seconds").labels)
        metrics.at_flush(self._flush)

    def _flush(self) -> None:
        answered, self.answered = self.answered, []
        tallies: dict[_Labels, _Tally] = {}
        for route, method, status, seconds in answered:
            tally = tallies.get((route, method, status))
            if tally is None:
                tally = tallies[route, method, status] = _Tally()
            tally.count += 1
            if seconds is not None:
                tally.seconds += seconds
                tally.buckets[bisect_left(metrics.SECONDS, seconds)] += 1
        for (route, method, status), tally in tallies.items():
            self._requests(route, method, status).inc(tally.count)
            metrics.add_observations(self._seconds(route, method), tally.seconds, tally.buckets)
