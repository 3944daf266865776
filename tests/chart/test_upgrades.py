"""A change of values changes no immutable field of an object."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from chart import rendering
from chart.extras import SCHEDULING
from chart.matrix import MATRIX, Values, ValuesSet, merged
from chart.release import Object, hooks
from chart.rendering import CHART, RefusedError, objects, template
from chart.schemas import NEWEST

STATEFUL_SET = {
    *("replicas", "ordinals", "template", "updateStrategy", "revisionHistoryLimit"),
    *("persistentVolumeClaimRetentionPolicy", "minReadySeconds"),
}
"""Mutable fields of the spec of a StatefulSet (ValidateStatefulSetUpdate)."""
JOB = {"parallelism", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished", "suspend"}

CHANGES: dict[str, Values] = {
    "labels": {"commonLabels": {"example.org/cost": "43"}},
    "jobs": {
        "jobs": {
            **SCHEDULING,
            "resources": {"limits": {"memory": "300Mi"}},
            "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy.example.org:3128"}],
            "podAnnotations": {"example.org/team": "sensors"},
            "podLabels": {"example.org/team": "sensors"},
        }
    },
    "migrations": {"migrations": {"waitSeconds": 30, "deadlineSeconds": 60}},
    "images": {"writer": {"image": {"tag": "9"}}, "api": {"image": {"tag": "9"}}},
    "stores": {
        "redis": {"internal": {"maxmemory": "1gb", "podLabels": {"example.org/a": "b"}}},
        "postgres": {"internal": {"args": ["-c", "log_statement=all"]}},
    },
    "pods": {
        "api": {"podLabels": {"example.org/a": "b"}, "replicas": 3},
        "writer": {"podLabels": {"example.org/a": "b"}, "replicas": 3},
    },
}


def fixed(each: Object) -> object:
    """Return the immutable fields of an object."""
    kind, spec = each["kind"], each.get("spec") or {}
    if kind == "Deployment":
        return spec["selector"]
    if kind == "StatefulSet":
        return {name: value for name, value in spec.items() if name not in STATEFUL_SET}
    if kind == "Job":
        return {name: value for name, value in spec.items() if name not in JOB}
    if kind == "Service":
        return spec.get("clusterIP"), spec.get("loadBalancerClass")
    if kind == "RoleBinding":
        return each["roleRef"]
    return each.get("immutable"), each.get("type")


def parts(values: ValuesSet) -> dict[tuple[str, str], Any]:
    """Return the immutable fields of each object of the release, except hooks.

    Helm deletes a hook before it creates the hook again. The names have no revision, as with
    `kubectl apply` and Argo CD.
    """
    made = objects(template(values, "--kube-version", NEWEST))
    return {
        (each["kind"], each["metadata"]["name"]): fixed(each) for each in made if not hooks(each)
    }


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["demo", "extras"])
def test_a_change_of_values_keeps_immutable_fields(name: str, change: str) -> None:
    before = MATRIX[name]
    after = ValuesSet(merged(before.values, CHANGES[change]), before.files)
    had, has = parts(before), parts(after)
    assert {key: has[key] for key in had} == had


def test_changes_of_immutable_fields_are_found() -> None:
    before = MATRIX["demo"]
    larger = {"redis": {"internal": {"persistence": {"size": "9Gi"}}}}
    assert parts(before) != parts(ValuesSet(merged(before.values, larger), before.files))


def test_reuse_values_is_refused_if_the_old_chart_lacks_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `--reuse-values`, Helm replaces the defaults of the chart by those of the old chart."""
    reused = tmp_path / "iot-sensor"
    shutil.copytree(CHART, reused)
    defaults = yaml.safe_load((reused / "values.yaml").read_text(encoding="utf-8"))
    del defaults["logs"], defaults["api"]["tls"]
    (reused / "values.yaml").write_text(yaml.safe_dump(defaults), encoding="utf-8")
    monkeypatch.setattr(rendering, "CHART", reused)
    with pytest.raises(RefusedError, match="missing propert") as refused:
        template(MATRIX["own-stores"])
    assert "'logs'" in str(refused.value)
    assert "'tls'" in str(refused.value)
