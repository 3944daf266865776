"""A client of the API in this process."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flask import Flask
from werkzeug.test import TestResponse

from iot_api.service import Service
from support.samples import sample_value

Row = dict[str, Any]
JSON = {"Content-Type": "application/json"}
PASSWORD = "p"
"""The default password."""


def row(password: str = PASSWORD, /, **data: Any) -> Row:
    """Return one row of a PUT."""
    return {"data": {"db_password": password, **data}}


def sample(name: str, **labels: str) -> float:
    """Return the value of a metric of this process, or 0 before its first count."""
    return sample_value(name, labels) or 0.0


@dataclass
class Api:
    """An app and its client."""

    app: Flask

    @property
    def service(self) -> Service:
        """The parts of the app."""
        service: Service = self.app.extensions["iot"]
        return service

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> TestResponse:
        """Send a request."""
        return self.app.test_client().open(path, method=method, data=body, headers=headers)

    def put(self, rows: object, headers: Mapping[str, str] | None = None) -> TestResponse:
        """PUT rows as JSON."""
        return self.ask("PUT", "/api/iot", json.dumps(rows), {**JSON, **(headers or {})})

    def post(self, path: str = "/api/iot", password: str = PASSWORD) -> TestResponse:
        """POST a password."""
        return self.ask("POST", path, json.dumps({"data": {"db_password": password}}), JSON)

    def read(self, path: str = "", password: str = PASSWORD) -> list[Row]:
        """Return the readings of a POST to `/api/iot<path>`."""
        answer = self.post(f"/api/iot{path}", password)
        assert answer.status_code == 200, answer.text
        rows: list[Row] = json.loads(answer.data)["data"]
        return rows

    def end_background_threads(self) -> None:
        """End the threads that ask Redis and Postgres at any time, before commands are counted."""
        self.service.vault_restorer.close()
        self.service.compaction.close()


def assert_error(answer: TestResponse, status: int, code: str) -> dict[str, Any]:
    """Check that an answer is an error with a sentence, a code and an id.

    Return its body without the members of RFC 9457.
    """
    assert answer.status_code == status, answer.text
    assert answer.mimetype == "application/json"
    assert answer.headers["X-Request-Id"]
    body: dict[str, Any] = json.loads(answer.data)
    assert body["code"] == code
    assert isinstance(body["error"], str)
    assert body["error"]
    assert "<" not in body["error"]
    assert ("Retry-After" in answer.headers) == (status in {429, 503})
    assert body.pop("type") == f"urn:iot-sensor:error:{code}"
    assert body.pop("title")
    assert (body.pop("status"), body.pop("detail")) == (status, body["error"])
    return body
