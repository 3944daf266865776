"""Print docs/metrics.md: every metric, and the figures of the status (`make docs`)."""

from collections.abc import Iterable, Iterator

from .declared_metrics import METRICS, Metric
from .figures import FIGURES

_INTRODUCTION = """\
# Metrics

<!-- `make docs` writes this file (shared/models/iot_models/metrics_reference.py). -->

Prometheus scrapes `/metrics` of the API (port 9100), the writers (9101) and the canary (9102).
Times are in seconds and sizes in bytes.
[Monitoring](monitoring.md) says how to set up Prometheus, and [the runbooks](runbooks.md) explain
the alerts.

No label has a value that a client chooses. `shard` has at most 256 values; `route`, `method` and
`status` have only values of the API's own routes.

The workers of an API pod count in memory, and add the counts to files ten times a second. A worker
that is killed loses the counts of the last tenth of a second. `/metrics` returns the sums of the
files of all workers, including the workers that have ended.
"""
_TITLES = {"api": "API", "writer": "Writers", "canary": "Canary"}
_FIGURES = """\
## Figures of the status

`GET /api/status` and `iot-sensor top` show these figures. The PromQL expressions return the same
figures from a Prometheus that scrapes one release. The status shows rates averaged over the last
15 to 30 seconds; the expressions return rates averaged over the last minute.
"""
_EXEMPLARS = """\
## Exemplars

While tracing is on, `iot_stored_after_seconds` and `iot_readable_after_seconds` of the writers have
exemplars: the `trace_id` of a PUT whose readings waited that long. Prometheus keeps exemplars
with `--enable-feature=exemplar-storage`.

Metrics of the API have no exemplars. prometheus_client keeps exemplars in the memory of one
process, and `/metrics` of the API is the sum of the files of several workers.
"""


def reference() -> str:
    """Return the text of docs/metrics.md."""
    parts = [_INTRODUCTION]
    for service, title in _TITLES.items():
        of_service = (metric for metric in METRICS if metric.service == service)
        parts.append(f"## {title}\n")
        parts.append(_table(("metric", "type", "unit", "labels", "meaning"), map(_row, of_service)))
    figures = ((f"`{path}`", f"`{query}`") for path, query in FIGURES.items())
    parts += [_FIGURES, _table(("figure", "expression"), figures), _EXEMPLARS]
    return "\n".join(parts)


def _row(metric: Metric) -> Iterator[str]:
    yield f"`{metric.name}`"
    yield metric.kind
    yield metric.unit
    yield ", ".join(f"`{label}`" for label in metric.labels)
    yield metric.meaning


def _table(headings: tuple[str, ...], rows: Iterable[Iterable[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(cells)} |\n".replace("  ", " ") for cells in lines)


if __name__ == "__main__":
    print(reference(), end="")
