"""Fixtures of the tests of key rotation."""

import os
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from integration.rotation.running import Running
from iot_api.vaults import restorer
from iot_cipher.keyring import create_keyring_file
from iot_models.settings import Settings
from iot_stores import process_reports
from iot_tools.cli import key_rotation
from iot_writer.writer import Writer


@pytest.fixture
def keyring_file(tmp_path: Path) -> Path:
    """A keyring of the test's own, which the test changes."""
    path = tmp_path / "keyring.json"
    create_keyring_file(path)
    path.chmod(0o640)
    return path


@pytest.fixture
def running(
    client: FlaskClient,
    writer: Writer,
    settings: Settings,
    environment: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Running:
    monkeypatch.setattr(process_reports, "REPORT_SECONDS", 0.1)
    monkeypatch.setattr(restorer, "PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(key_rotation, "LOCK_SECONDS", 0.0)
    for name, value in environment.items():
        monkeypatch.setitem(os.environ, name, value)
    return Running(client, writer, settings, capsys)
