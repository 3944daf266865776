"""Fixtures of several directories."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from iot_api.limits import pace
from support.kube_api import KubeApi


@pytest.fixture(autouse=True)
def unpaced_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let scrypts and large bodies follow each other at once: other tests contend for the CPU, and
    each piece of the work would be followed by a rest of nine times its duration."""
    monkeypatch.setattr(pace, "MAX_REST_SECONDS", 0.0)


@pytest.fixture
def kube(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubeApi]:
    """The API server of the kube config."""
    api = KubeApi()
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(api.kube_config(tmp_path / "kube.config")))
    with api.running():
        yield api
