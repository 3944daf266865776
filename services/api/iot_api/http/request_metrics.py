"""The metrics of requests: how many, and how long they take."""

from collections import Counter, defaultdict

from iot_models import metrics


class RequestMetrics:
    """The counters of requests and their durations.

    The requests are listed in `answered`, and added to the metrics at the next flush. One flush for
    many requests is cheaper: prometheus_client takes a lock and writes to a memory-mapped file for
    each change of a metric.
    """

    def __init__(self) -> None:
        self.answered: list[tuple[str, str, int, float | None]] = []
        """Route, method, status and seconds of the requests since the last flush. Append to this
        list. The seconds are None if a request failed before its start was noted."""
        self._requests = metrics.counter("iot_http_requests_total")
        metrics.at_flush(self._flush)

    def _flush(self) -> None:
        answered, self.answered = self.answered, []
        counts = Counter([(route, method, status) for route, method, status, _ in answered])
        for labels, count in counts.items():
            self._requests.labels(*labels).inc(count)
        durations: dict[tuple[str, str], list[float]] = defaultdict(list)
        for route, method, _, seconds in answered:
            if seconds is not None:
                durations[route, method].append(seconds)
        for of, values in durations.items():
            metrics.observe_all("iot_http_request_seconds", values, *of)
