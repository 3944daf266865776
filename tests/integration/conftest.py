"""Fixtures of several directories."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.kube_api import KubeApi


@pytest.fixture
def kube(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubeApi]:
    """The API server of the kube config."""
    api = KubeApi()
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(api.kube_config(tmp_path / "kube.config")))
    with api.running():
        yield api
