"""A new install passes `helm test`, stores readings and requires tokens."""

import json
from typing import Any

from e2e.bodies import Body
from e2e.release import Release

PASSWORD = "of the e2e tests"
READINGS = 3
ROWS: list[dict[str, Any]] = [
    {"data": {"db_password": PASSWORD, "relative_time": number, "interrogator_time": number,
              "freeform": {"number": number, "text": "21 °C"}}}
    for number in range(READINGS)
]  # fmt: skip


def put(token: str | None) -> Body:
    return {"method": "PUT", "path": "/api/iot", "body": ROWS, "token": token}


def read(token: str | None, *, rows: int = 0) -> Body:
    body = {"data": {"db_password": PASSWORD}}
    patience = {"rows": rows, "seconds": 60}
    return {"method": "POST", "path": "/api/iot", "body": body, "token": token, **patience}


def test_helm_test_succeeds(release: Release) -> None:
    assert "Succeeded" in release.test()


def test_readings_are_stored_and_read_through_the_service(release: Release) -> None:
    written, found = release.ask(put("devices"), read("researchers", rows=READINGS))
    assert written["status"] == 201, written
    assert found["status"] == 200, found
    rows: list[dict[str, Any]] = found["body"]["data"]
    assert [each["relative_timestamp"] for each in rows] == list(range(READINGS))
    sent = [each["data"]["freeform"] for each in ROWS]
    assert [json.loads(each["freeform"]) for each in rows] == sent


def test_requests_without_the_right_token_are_refused(release: Release) -> None:
    nobody, stranger, device, researcher = release.ask(
        put(None),
        {**put(None), "headers": {"Authorization": f"Bearer iot_{'x' * 43}"}},
        read("devices"),
        put("researchers"),
    )
    assert nobody["status"] == 401
    assert nobody["headers"]["www-authenticate"].startswith("Bearer")
    assert stranger["status"] == 401
    assert device["status"] == 403
    assert researcher["status"] == 403
