"""Values that are null: helm removes the default of such a value."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from chart.matrix import OWN, ValuesSet, merged
from chart.rendering import CHART, template
from chart.schemas import NEWEST

OPTIONAL = {
    *("replicas", "minReplicas", "targetCPUUtilizationPercentage"),
    *("resources", "behavior", "podSecurityContext"),
}
"""Kubernetes has defaults for these, or needs none."""


def numbers(values: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of each number in the values. Leave out numbers that may be null."""
    for name, value in values.items():
        if name in OPTIONAL:
            continue
        if isinstance(value, dict):
            yield from numbers(value, (*path, name))
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield (*path, name)


def test_every_number_is_required() -> None:
    """A number that is null used to be rendered as 0 or as an empty text."""
    from jsonschema import Draft7Validator  # type: ignore[import-untyped] # noqa: PLC0415

    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    schema = Draft7Validator(json.loads((CHART / "values.schema.json").read_text(encoding="utf-8")))
    assert schema.is_valid(values)
    for path in numbers(values):
        without = block = copy.deepcopy(values)
        for name in path[:-1]:
            block = block[name]
        del block[path[-1]]
        assert not schema.is_valid(without), path


@pytest.mark.parametrize(
    "values",
    [
        {"redis": {"url": None, "hotWindow": {"api": None, "url": None}}},
        {"postgres": {"url": None}},
        {"api": {"service": {"ipFamilies": None}, "replicas": None, "resources": None}},
        {"metrics": {"rules": {"enabled": True, "alertLabels": None, "alerts": {"IotSlow": None}}}},
        {"ingress": {"enabled": True, "hosts": ["a.example.org"], "annotations": None}},
    ],
)
def test_a_null_stands_for_an_empty_value(values: dict[str, Any]) -> None:
    assert template(ValuesSet(merged(OWN, values)), "--kube-version", NEWEST)
