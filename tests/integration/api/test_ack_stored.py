"""`?ack=stored` answers once the readings are in Postgres and can be read."""

import dataclasses
import json
from collections.abc import Iterator
from typing import NoReturn, cast

import pytest
from flask.testing import FlaskClient

from iot_api.app import create_app
from iot_api.ingest import intake
from iot_models.settings import Settings
from iot_stores.hot_window import HotWindow
from iot_writer.writer import Writer
from support.draining import drain_all
from support.keys import KEYS
from support.stack import Stack

ROWS = [{"data": {"db_password": password, "freeform": password}} for password in "abcdefgh"]


@pytest.fixture
def impatient(settings: Settings) -> Iterator[FlaskClient]:
    """A client whose PUTs do not wait for storage."""
    app = create_app(dataclasses.replace(settings, ack_stored_seconds=0))
    yield app.test_client()
    app.extensions["iot"].close()


def test_a_201_with_ack_stored_can_be_read_at_once(stack: Stack) -> None:
    for number in range(30):
        row = {"data": {"db_password": f"p{number % 5}", "freeform": number}}
        body = str(row).replace("'", '"')
        answer = stack.request("PUT", "/api/iot?ack=stored", body)
        assert answer.status == 201, answer.body
        for path in ("", "/seconds/60", "/last/1"):
            rows = stack.read(f"p{number % 5}", path)
            assert rows[-1]["freeform"] == str(number), path


def test_a_202_names_the_receipt_url(impatient: FlaskClient, writer: Writer) -> None:
    answer = impatient.put("/api/iot?ack=stored", json=ROWS)
    assert answer.status_code == 202
    assert json.loads(answer.data)["success"] == "8 object(s) created"
    assert json.loads(answer.data)["stored"] is False
    ask = answer.headers["Location"]
    assert ask == json.loads(answer.data)["ask"]
    assert impatient.get(ask).status_code == 202
    assert "Retry-After" in impatient.get(ask).headers
    drain_all(writer)
    assert impatient.get(ask).status_code == 200
    assert json.loads(impatient.get(ask).data) == {"stored": True}


def test_a_dead_letter_is_never_reported_as_stored(impatient: FlaskClient, writer: Writer) -> None:
    """Not before, between and after the stored entries of its session."""

    def put(*, spoil: bool) -> str:
        answer = impatient.put("/api/iot?ack=stored", json=ROWS[:1])
        for shard in range(writer.settings.shards) if spoil else ():
            key = f"iot:ingest:{shard}"
            found = cast("list[tuple[bytes, dict[bytes, bytes]]]", writer.redis.xrange(key))
            for entry_id, fields in found:
                spoiled = fields[b"e"][:-1] + bytes([fields[b"e"][-1] ^ 1])
                writer.redis.delete(key)
                writer.redis.xadd(key, {"e": spoiled, "t": fields[b"t"]}, id=entry_id)
        drain_all(writer)
        return str(json.loads(answer.data)["ask"])

    asks = [put(spoil=True)]
    assert impatient.get(asks[0]).status_code == 202
    asks += [put(spoil=spoil) for spoil in (False, True, False, True)]
    assert [impatient.get(ask).status_code for ask in asks] == [202, 200, 202, 200, 202]


@pytest.mark.parametrize("large", [False, True])
def test_a_dead_letter_before_the_last_entry_of_its_shard_is_noticed(
    impatient: FlaskClient,
    writer: Writer,
    monkeypatch: pytest.MonkeyPatch,
    *,
    large: bool,
) -> None:
    """The request has many passwords, or more readings than an entry may have."""
    monkeypatch.setattr(intake, "MAX_READINGS", 1)
    rows = [ROWS[0]] * 30 if large else [*ROWS, *({"data": {"db_password": p}} for p in "ijklmn")]
    headers = {"Idempotency-Key": "one"}
    answer = impatient.put("/api/iot?ack=stored", json=rows, headers=headers)
    key = max(map(KEYS.stream, range(writer.settings.shards)), key=writer.redis.xlen)
    (entry_id, fields), *others = cast(
        "list[tuple[bytes, dict[bytes, bytes]]]", writer.redis.xrange(key)
    )
    assert others
    writer.redis.delete(key)
    writer.redis.xadd(key, {"e": b"spoiled", "t": fields[b"t"]}, id=entry_id)
    for other_id, other in others:
        writer.redis.xadd(key, {"e": other[b"e"], "t": other[b"t"]}, id=other_id)
    drain_all(writer)
    assert impatient.get(answer.headers["Location"]).status_code == 202
    assert impatient.put("/api/iot?ack=stored", json=rows, headers=headers).status_code == 202


def test_stored_readings_that_the_hot_window_lacks_are_answered_202(
    impatient: FlaskClient, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer is killed between the commit and the write to the hot window."""
    headers = {"Idempotency-Key": "one"}
    assert impatient.put("/api/iot", json=ROWS, headers=headers).status_code == 201

    def kill(*_: object) -> NoReturn:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(HotWindow, "write", kill)
        with pytest.raises(SystemExit):
            drain_all(writer)
    again = impatient.put("/api/iot?ack=stored", json=ROWS, headers=headers)
    assert again.status_code == 202
    drain_all(writer)
    assert impatient.put("/api/iot?ack=stored", json=ROWS, headers=headers).status_code == 201


@pytest.mark.parametrize("receipt", ["x", "", "AAAA", "A" * 36 + "!", "__" * 500])
def test_an_invalid_receipt_is_refused(client: FlaskClient, receipt: str) -> None:
    answer = client.get(f"/api/iot/stored/{receipt}")
    assert answer.status_code in {400, 404, 405}
    assert json.loads(answer.data)["error"]


def test_an_unknown_ack_is_refused(client: FlaskClient) -> None:
    answer = client.put("/api/iot?ack=maybe", json=ROWS)
    assert answer.status_code == 400
    assert json.loads(answer.data)["field"] == "ack"


def test_a_repeated_request_waits_until_it_is_stored(stack: Stack) -> None:
    body, headers = '{"data": {"db_password": "p"}}', {"Idempotency-Key": "one"}
    first = stack.request("PUT", "/api/iot", body, headers)
    again = stack.request("PUT", "/api/iot?ack=stored", body, headers)
    assert (first.status, again.status) == (201, 201)
    assert len(stack.read("p")) == 1


def test_a_repeated_request_that_is_not_stored_names_the_receipt_url(
    impatient: FlaskClient, writer: Writer
) -> None:
    headers = {"Idempotency-Key": "one"}
    impatient.put("/api/iot", json=ROWS, headers=headers)
    again = impatient.put("/api/iot?ack=stored", json=ROWS, headers=headers)
    assert again.status_code == 202
    drain_all(writer)
    assert impatient.get(again.headers["Location"]).status_code == 200
    assert impatient.put("/api/iot?ack=stored", json=ROWS, headers=headers).status_code == 201


@pytest.mark.parametrize(
    ("proxies", "prefix", "expected"),
    [
        (1, "/sensors", "/sensors"),
        (1, "/forged, /sensors/", "/sensors"),
        (2, "/outer, /inner", "/outer/inner"),
        (0, "/sensors", ""),
        (1, "//evil.test", ""),
        (1, "https://evil.test", ""),
    ],
)
def test_a_trusted_proxy_sets_the_prefix_of_the_receipt_url(
    settings: Settings, proxies: int, prefix: str, expected: str
) -> None:
    """The prefix of an untrusted proxy is ignored, and a client is never sent to another host."""
    app = create_app(dataclasses.replace(settings, ack_stored_seconds=0, trusted_proxies=proxies))
    headers = {"X-Forwarded-Prefix": prefix}
    client = app.test_client()
    answer = client.put("/api/iot?ack=stored", json=ROWS, headers=headers)
    ask = json.loads(answer.data)["ask"]
    assert ask.startswith("/api/iot/stored/")
    for each in (answer, client.get(ask, headers=headers)):
        assert each.status_code == 202
        assert each.headers["Location"] == expected + ask
    app.extensions["iot"].close()
