"""An API server, and commands that use it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from iot_tools.cli.main import main
from support.kube_api import KubeApi


@dataclass(frozen=True)
class Said:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str


Run = Callable[..., Said]


@pytest.fixture
def kube(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubeApi]:
    """The API server of the kube config."""
    api = KubeApi()
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(api.kube_config(tmp_path / "kube.config")))
    with api.running():
        yield api


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Run:
    """A function that runs `iot-sensor` in this process."""

    def run(*arguments: str) -> Said:
        capsys.readouterr()
        caplog.clear()
        with caplog.at_level("INFO"):
            code = main(arguments)
        captured = capsys.readouterr()
        return Said(code, captured.out + caplog.text, captured.err)

    return run
