"""The harness of the e2e tests with a simulated API server and real processes of the service."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e import patience
from e2e.cluster import Cluster
from e2e.helm import Helm, current_chart
from e2e.options import read
from e2e.release import Release
from iot_cipher.tokens import new_tokens_text, with_token
from iot_models.scopes import Scope
from support.stack import Stack
from system.e2e.api_server import ApiServer

TOKENS = {"devices": [Scope.INGEST], "researchers": [Scope.READ], "admin": [Scope.ADMIN]}
URL = "http://iot-iot-sensor-api.{namespace}.svc:80"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the interval of checks, because nothing is slow."""
    monkeypatch.setattr(patience, "POLL", 0.05)


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tokens.json, and with the Secrets of a release below etc."""
    folder = tmp_path_factory.mktemp("secrets")
    for name in ("tokens", "probe"):
        (folder / "etc" / name).mkdir(parents=True)
    text = new_tokens_text()
    for name, scopes in TOKENS.items():
        text, token = with_token(text, name, scopes)
        (folder / "etc/tokens" / name).write_text(token, encoding="utf-8")
    text, token = with_token(text, "probe", [Scope.INGEST, Scope.READ])
    (folder / "etc/probe/token").write_text(token, encoding="utf-8")
    (folder / "etc/probe/password").write_text("of the probe", encoding="utf-8")
    (folder / "tokens.json").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def shared_settings(secrets: Path) -> dict[str, str]:
    """Settings of a service that requires tokens, as in the chart."""
    return {"IOT_TOKENS_FILE": str(secrets / "tokens.json")}


@pytest.fixture
def mounted(secrets: Path, tmp_path: Path) -> Path:
    """The folder in place of /etc/e2e in the pods of one test."""
    return shutil.copytree(secrets / "etc", tmp_path / "etc")


@pytest.fixture
def server(tmp_path: Path, mounted: Path) -> Iterator[ApiServer]:
    """The API server of the kube config."""
    made = ApiServer(mounted)
    made.kube_config(tmp_path / "kube.config")
    with made.running():
        yield made


@pytest.fixture
def cluster(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Cluster]:
    """The client of the API server."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kube.config"))
    del server
    made = Cluster()
    yield made
    made.close()


@pytest.fixture
def release(cluster: Cluster, tmp_path: Path) -> Release:
    """A release that is not installed; only its names are used."""
    chart = current_chart(read({"IOT_E2E": "1", "IOT_E2E_TAG": "dev"}))
    namespace = cluster.make_namespace()
    return Release(cluster, Helm(None, tmp_path / "helm"), namespace, chart)


@pytest.fixture
def served(server: ApiServer, release: Release, shared_stack: Stack) -> Release:
    """A release whose URL is the URL of real processes."""
    url = URL.format(namespace=release.namespace)
    assert release.url == url
    server.rename[url] = shared_stack.url
    return release
