"""Unicode forms of one password open one vault, and older vaults are still found."""

import json
import unicodedata

import psycopg
import pytest

from integration.api.asking import JSON, Api, Row, assert_error, row, sample
from integration.api.conftest import MakeApi
from integration.api.test_vault_lookups import costs, renew_at_next_use
from iot_api.vaults import opening
from iot_cipher.vault import password_key
from iot_writer.writer import Writer
from support.draining import drain_all

COMPOSED = unicodedata.normalize("NFC", "Schlüssel zur Höhle")
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)
SPACED = COMPOSED.replace(" ", "\u00a0")
FORMS = [COMPOSED, DECOMPOSED, SPACED]


def texts(rows: list[Row]) -> list[str]:
    """Return the `freeform` of readings."""
    return [each["freeform"] for each in rows]


def put_as_before(make_api: MakeApi, password: str, freeform: int) -> None:
    """PUT as the previous version did, which compared passwords byte by byte."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, "normal_form", lambda password: password)
        assert make_api().put(row(password, freeform=freeform)).status_code == 201


@pytest.mark.parametrize("sent", FORMS, ids=ascii)
def test_all_forms_of_a_password_read_the_same_vault(
    make_api: MakeApi, writer: Writer, postgres: psycopg.Connection, sent: str
) -> None:
    api = make_api()
    assert api.put([row(sent, freeform=1), row(sent, freeform=2)]).status_code == 201
    drain_all(writer)
    for password in FORMS:
        for process in (api, make_api()):
            assert texts(process.read(password=password)) == ["1", "2"]
            assert texts(process.read("/last/1", password)) == ["2"]
            found = process.post("/api/rssi/maxtime", password).get_json()
            assert found == {"data": [{"max_relative_timestamp": -1}]}
    assert len(costs(postgres)) == 1


def test_all_forms_in_one_request_are_one_vault(make_api: MakeApi, writer: Writer) -> None:
    rows = [row(password, freeform=number) for number, password in enumerate(FORMS)]
    assert make_api().put(rows).get_json() == {"success": "3 object(s) created"}
    drain_all(writer)
    for password in FORMS:
        assert texts(make_api().read(password=password)) == ["0", "1", "2"]


def test_a_json_escape_equals_its_character(make_api: MakeApi, writer: Writer) -> None:
    api = make_api()
    body = json.dumps(row(DECOMPOSED, freeform=1))  # ASCII with escapes
    assert b"\\u0308" in body.encode()
    assert api.ask("PUT", "/api/iot", body, JSON).status_code == 201
    drain_all(writer)
    raw = json.dumps({"data": {"db_password": COMPOSED}}, ensure_ascii=False)
    assert len(api.ask("POST", "/api/iot", raw.encode(), JSON).get_json()["data"]) == 1


def test_a_repeat_is_recognized_under_every_form(make_api: MakeApi, writer: Writer) -> None:
    key = {"Idempotency-Key": "one"}
    assert make_api().put(row(DECOMPOSED), key).status_code == 201
    repeated = make_api().put(row(COMPOSED), key)
    assert repeated.headers["Idempotent-Replayed"] == "true"
    drain_all(writer)
    assert len(make_api().read(password=COMPOSED)) == 1


@pytest.mark.parametrize("old", [DECOMPOSED, SPACED], ids=ascii)
def test_an_older_vault_is_found_by_its_own_form(
    make_api: MakeApi, writer: Writer, old: str
) -> None:
    """If the normal form has a separate vault, each vault keeps its readings."""
    put_as_before(make_api, old, 1)
    put_as_before(make_api, COMPOSED, 2)
    one, other = make_api(), make_api()
    assert one.put(row(old, freeform=3)).status_code == 201
    assert other.put(row(COMPOSED, freeform=4)).status_code == 201
    drain_all(writer)
    for process in (one, other, make_api()):
        for _ in range(2):
            assert texts(process.read(password=old)) == ["1", "3"]
            assert texts(process.read(password=COMPOSED)) == ["2", "4"]
            renew_at_next_use(process)


def test_a_vault_made_during_an_update_is_used_by_every_process(
    make_api: MakeApi, writer: Writer
) -> None:
    """A process of the previous version creates a second vault, for the form it received."""
    new = make_api()
    new.put(row(DECOMPOSED, freeform=1))
    put_as_before(make_api, DECOMPOSED, 2)
    renew_at_next_use(new)
    later = make_api()
    for number, process in enumerate((new, later), 3):
        assert process.put(row(DECOMPOSED, freeform=number)).status_code == 201
    drain_all(writer)
    for process in (new, later):
        assert texts(process.read(password=DECOMPOSED)) == ["2", "3", "4"]
        assert texts(process.read(password=COMPOSED)) == ["1"]


def test_a_vault_moves_to_a_new_lookup_of_its_own_form(
    make_api: MakeApi, writer: Writer, postgres: psycopg.Connection
) -> None:
    """The cost is raised by a read that opens the vault or by a read that renews the vault."""
    put_as_before(make_api, SPACED, 1)
    first = make_api()
    first.put(row(DECOMPOSED, freeform=2))
    drain_all(writer)
    newest = make_api(scrypt_log2_n=11)
    assert texts(newest.read(password=SPACED)) == ["1"]
    renew_at_next_use(first)
    assert first.read(password="unknown") == []
    assert texts(first.read(password=DECOMPOSED)) == ["2"]
    assert texts(newest.read(password=DECOMPOSED)) == ["2"]
    assert costs(postgres) == [11, 11]
    for process in (first, newest, make_api(scrypt_log2_n=11)):
        assert texts(process.read(password=SPACED)) == ["1"]
        assert texts(process.read(password=DECOMPOSED)) == ["2"]
        assert texts(process.read(password=COMPOSED)) == ["2"]


def test_an_unknown_password_counts_once(make_api: MakeApi) -> None:
    api = make_api(guess_limit=2)
    before = sample("iot_unknown_passwords_total")
    assert api.read(password=DECOMPOSED) == []
    assert sample("iot_unknown_passwords_total") == before + 1
    assert api.put(row(DECOMPOSED)).status_code == 201
    assert sample("iot_unknown_passwords_total") == before + 2
    assert_error(api.post(password="another"), 429, "too_many_requests")


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The passwords for which scrypt was computed."""
    made: list[bytes] = []

    def noted(password: bytes, salt: bytes, log2_n: int) -> bytes:
        made.append(password)
        return password_key(password, salt, log2_n)

    monkeypatch.setattr("iot_api.service.slow_key", lambda: noted)
    return made


def test_another_form_costs_one_more_scrypt(
    make_api: MakeApi, writer: Writer, keys: list[bytes]
) -> None:
    assert make_api().put(row(COMPOSED)).status_code == 201
    assert keys == [COMPOSED.encode()]
    drain_all(writer)
    keys.clear()
    api = make_api()
    for _ in range(3):
        assert len(api.read(password=DECOMPOSED)) == 1
        assert api.put(row(DECOMPOSED)).status_code == 201
    assert keys == [DECOMPOSED.encode(), COMPOSED.encode()]
    keys.clear()
    make_api().read(password="ascii")
    assert keys == [b"ascii"]


@pytest.mark.parametrize("escape", [r"\ud800", r"\udc00\ud800", r"u\u0308\ud800"])
def test_a_lone_surrogate_is_refused(api: Api, escape: str) -> None:
    for method in ("PUT", "POST"):
        body = f'{{"data": {{"db_password": "{escape}"}}}}'
        assert_error(api.ask(method, "/api/iot", body, JSON), 400, "invalid_request")
