"""How the API ends when a setting is wrong."""

import socket
import time
from pathlib import Path

import pytest

from iot_api.server import startup_errors
from iot_models.errors import SettingsError


def test_a_worker_passes_any_error_to_the_master(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A path in an error need not be UTF-8."""
    monkeypatch.setattr(startup_errors, "_shared", [tmp_path])
    with pytest.raises(SystemExit):
        startup_errors.refuse_in_worker(SettingsError("/k\udce9yring.json can't be read"))
    with pytest.raises(SystemExit) as ended:
        startup_errors.refuse_in_master()
    assert ended.value.code == startup_errors.EXIT_CODE
    assert capfd.readouterr().err == "iot-api: /k\\udce9yring.json can't be read\n"


def test_a_metrics_port_that_becomes_free_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The metrics server of a killed master keeps the port for a moment."""
    orphan = socket.create_server(("127.0.0.1", 0))
    port = orphan.getsockname()[1]
    monkeypatch.setattr(time, "sleep", lambda _: orphan.close())
    startup_errors.check_metrics_port("127.0.0.1", port)
    assert orphan.fileno() == -1
