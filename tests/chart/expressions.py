"""The metrics and labels in a PromQL expression."""

import re
from collections.abc import Iterator

from iot_models.declared_metrics import METRICS

_METRIC = re.compile(r"\b(iot_[a-z0-9_]+|up)\b(?:\s*\{([^}]*)\})?")
_MATCHER = re.compile(r"([a-zA-Z_]\w*)\s*(?:=~|!~|!=|=)")
_PARTS = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("",), "gauge": ("",)}

OF_TARGETS = {
    *("namespace", "pod", "container", "instance", "job"),
    *("app_kubernetes_io_instance", "app_kubernetes_io_component"),
}
"""Labels that the monitors set on every series: their podTargetLabels or targetLabels."""

SERIES = {
    f"{each.name}{part}": {*each.labels, *(["le"] if part == "_bucket" else [])}
    for each in METRICS
    for part in _PARTS[each.kind]
} | {"up": set[str]()}
"""All series of the service, with their labels."""


def series(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Yield the series in an expression, and the labels of their matchers."""
    for name, matchers in _METRIC.findall(expression):
        yield name, set(_MATCHER.findall(re.sub(r'"[^"]*"', '""', matchers)))


def mistakes(expression: str) -> list[str]:
    """Return a sentence for each series or label that the service does not have."""
    found = []
    for name, labels in series(expression):
        if name not in SERIES:
            found.append(f"there is no {name}")
        elif unknown := labels - SERIES[name] - OF_TARGETS:
            found.append(f"{name} has no label {sorted(unknown)}")
    return found
