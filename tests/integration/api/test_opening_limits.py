"""What one request and one client may cost in scrypts and vaults."""

import json
import threading
from pathlib import Path

import psycopg
import pytest
from redis import Redis

from integration.api.asking import JSON, Api, assert_error, row, sample
from integration.api.conftest import MakeApi
from iot_api.limits.minute_limit import WIDE_FACTOR
from iot_cipher.tokens import new_tokens_text, with_token
from iot_models.scopes import Scope
from iot_writer.writer import Writer
from support.draining import drain_all
from support.keys import KEYS

GUESS = json.dumps({"data": {"db_password": "guess"}})
AT_ONCE = 128
"""Vaults that a PUT may open with `max_openings=1` and N = 2^10: the work of N = 2^17."""


def scrypts() -> float:
    return sum(sample("iot_scrypts_total", queue=queue) for queue in ("known", "first", "suspects"))


def entries(redis: "Redis") -> int:
    return sum(redis.xlen(KEYS.stream(shard)) for shard in range(8))


def test_a_put_with_many_new_passwords_costs_few_scrypts_and_makes_progress(
    make_api: MakeApi, redis: "Redis", writer: Writer
) -> None:
    api = make_api(max_openings=1, max_passwords=1000, guess_limit=0)
    rows = [row(f"new {number}") for number in range(300)]
    for opened, left in ((AT_ONCE, 172), (AT_ONCE, 44)):
        before = scrypts(), sample("iot_refused_total", reason="openings")
        error = assert_error(api.put(rows), 429, "too_many_requests")
        assert (error["reason"], error["opened"], error["left"]) == ("openings", opened, left)
        assert scrypts() - before[0] == AT_ONCE
        assert sample("iot_refused_total", reason="openings") == before[1] + 1
        assert entries(redis) == 0  # all or nothing
    assert api.put(rows).status_code == 201
    drain_all(writer)
    assert all(len(api.read(password=f"new {number}")) == 1 for number in (0, 150, 299))


def test_a_refused_put_tells_nothing_about_the_passwords_that_are_left(make_api: MakeApi) -> None:
    api = make_api(max_openings=1, scrypt_log2_n=15, guess_limit=0)  # 4 openings
    assert api.put(row("open")).status_code == 201
    answers = [
        api.put([row(f"{number} {each}") for each in range(7)] + [last]).get_json()
        for number, last in enumerate((row("open"), row("unknown")))
    ]
    assert answers[0] == answers[1]
    assert answers[0]["left"] == 8 - 4


@pytest.mark.parametrize("last", ["open", "unknown"])
def test_the_first_password_beyond_the_openings_is_not_tested(make_api: MakeApi, last: str) -> None:
    """A client that has not used the vault gets the same answer whether or not it is open."""
    api = make_api(max_openings=1, scrypt_log2_n=15, guess_limit=0, trusted_proxies=1)
    other = {"X-Forwarded-For": "192.0.2.7"}
    assert api.put(row("open"), headers={"X-Forwarded-For": "192.0.2.1"}).status_code == 201
    rows = [row(f"new {number}") for number in range(4)] + [row(last)]
    error = assert_error(api.put(rows, headers=other), 429, "too_many_requests")
    assert (error["opened"], error["left"]) == (4, 1)
    assert api.put(rows, headers=other).status_code == 201, "the opened vaults stay open"
    rows = [row(f"next {number}") for number in range(4)] + [row(last)]
    assert api.put(rows, headers=other).status_code == 201, "the last vault was used before"


def test_a_higher_cost_permits_fewer_openings(make_api: MakeApi) -> None:
    api = make_api(max_openings=1, scrypt_log2_n=13, guess_limit=0)
    error = assert_error(api.put([row(f"{each}") for each in range(20)]), 429, "too_many_requests")
    assert (error["opened"], error["left"]) == (16, 4)


def test_too_many_passwords_cost_no_scrypt(make_api: MakeApi) -> None:
    api = make_api()
    before = scrypts()
    answer = api.put([row(f"new {number}") for number in range(1000)])
    assert answer.status_code == 413
    assert scrypts() == before


def test_new_vaults_have_a_limit_of_their_own(
    make_api: MakeApi, postgres: psycopg.Connection
) -> None:
    one, other = (make_api(new_vault_limit=3) for _ in range(2))
    assert one.put([row(f"new {number}") for number in range(3)]).status_code == 201
    for api in (one, other):
        error = assert_error(api.put(row("one more")), 429, "too_many_requests")
        assert error["reason"] == "new_vaults"
        assert api.put(row("new 1")).status_code == 201
        assert api.post(password="unknown").status_code == 200
    found = postgres.execute("SELECT count(*) FROM vaults").fetchone()
    assert found == (3,)


def test_a_token_has_a_limit_at_all_addresses_together(make_api: MakeApi, tmp_path: Path) -> None:
    limit = 2
    text, fleet = with_token(new_tokens_text(), "fleet", (Scope.READ,))
    text, lab = with_token(text, "lab", (Scope.READ,))
    (tmp_path / "tokens.json").write_text(text, encoding="utf-8")
    api = make_api(guess_limit=limit, trusted_proxies=1, tokens_file=str(tmp_path / "tokens.json"))

    def status(token: str, address: str) -> int:
        headers = {**JSON, "Authorization": f"Bearer {token}", "X-Forwarded-For": address}
        return api.ask("POST", "/api/iot", GUESS, headers).status_code

    most = WIDE_FACTOR * limit
    statuses = [status(fleet, f"192.0.2.{number}") for number in range(most + 3)]
    assert statuses == [200] * most + [429] * 3
    assert status(lab, "198.51.100.1") == 200


def test_an_address_has_a_limit_with_all_tokens_together(make_api: MakeApi, tmp_path: Path) -> None:
    text, tokens = new_tokens_text(), []
    for number in range(WIDE_FACTOR + 2):
        text, token = with_token(text, f"token-{number}", (Scope.READ,))
        tokens.append(token)
    (tmp_path / "tokens.json").write_text(text, encoding="utf-8")
    api = make_api(guess_limit=1, tokens_file=str(tmp_path / "tokens.json"))
    statuses = [
        api.ask("POST", "/api/iot", GUESS, {**JSON, "Authorization": f"Bearer {token}"}).status_code
        for token in tokens
    ]
    assert statuses == [200] * WIDE_FACTOR + [429] * 2


def test_guesses_at_once_hardly_pass_the_limit(make_api: MakeApi, redis: "Redis") -> None:
    """Requests that wait for a scrypt when the limit is reached compute none. The next scrypts may
    begin before the result of the last one is counted, so each scrypt takes 80 ms.
    """
    limit = 5
    api = make_api(guess_limit=limit, scrypt_log2_n=15)
    before = scrypts()
    statuses: list[int] = []

    def guess(api: Api, number: int) -> None:
        statuses.append(api.post(password=f"guess {number}").status_code)

    threads = [threading.Thread(target=guess, args=(api, number)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # On a busy machine, some wait for too long: they are refused, and counted without a scrypt.
    assert int(redis.get(KEYS.guesses("127.0.0.1")) or 0) >= limit
    assert scrypts() - before <= limit + 4
    assert statuses.count(200) == scrypts() - before
    assert statuses.count(200) + statuses.count(429) == 20
