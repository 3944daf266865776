"""An API and a writer in the test's process, and `iot-sensor keys`."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from iot_api.service import Service
from iot_cipher.keyring import Keyring, parse_keyring
from iot_models.settings import Settings
from iot_tools.cli.main import main
from iot_writer.writer import Writer
from support.waiting import wait_until

ROW = {"data": {"db_password": "the password", "freeform": 1}}


@dataclass
class Running:
    """An API and a writer in this process, and the command."""

    client: FlaskClient
    writer: Writer
    settings: Settings
    captured: pytest.CaptureFixture[str]

    @property
    def service(self) -> Service:
        found: Service = self.client.application.extensions["iot"]
        return found

    def report(self) -> None:
        """Let both processes report the keys that they have loaded."""
        for watcher in (self.service.stores.watcher, self.writer.watcher):
            for step in watcher.after_checks:
                step()

    def keys(self, *arguments: str) -> tuple[int, str]:
        """Run a command. Return its exit status and its output."""
        self.captured.readouterr()
        status = main(["keys", *arguments])
        return status, "".join(self.captured.readouterr())

    def wait_for(self, *arguments: str) -> str:
        """Run a command until it succeeds, while the processes go on."""

        def succeeded() -> str:
            self.report()
            status, output = self.keys(*arguments)
            return output if status == 0 else ""

        return wait_until(succeeded, what=f"keys {' '.join(arguments)}")

    def keyring(self) -> Keyring:
        return parse_keyring(Path(self.settings.keyring_file).read_text())

    def put(self) -> None:
        assert self.client.put("/api/iot", json=ROW).status_code == 201

    def read(self) -> list[str]:
        body = {"data": {"db_password": "the password"}}
        answer = self.client.post("/api/iot", json=body)
        assert answer.status_code == 200, answer.text
        return [each["freeform"] for each in answer.json["data"]]  # type: ignore[index]
