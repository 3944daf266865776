"""Password guesses are limited across all API processes."""

import json
from http.client import HTTPConnection

import pytest
from redis import Redis
from werkzeug.test import TestResponse

from integration.api.asking import JSON, Api, assert_error, row, sample
from integration.api.conftest import MakeApi
from iot_api.http.request import PROVEN
from iot_api.limits.clients import Client
from iot_api.limits.guess_limit import GuessLimit
from iot_api.limits.minute_limit import WIDE_FACTOR
from iot_models.errors import TooManyRequestsError
from iot_models.names import KeyNames
from iot_models.settings import Settings
from iot_writer.writer import Writer
from support.draining import drain_all
from support.keys import KEYS
from support.stack import Stack
from support.waiting import wait_until

LIMIT = 3
SERIES = "/api/iot/series?step=1d"


def guess(api: Api, times: int = LIMIT) -> None:
    for number in range(times):
        assert api.post(password=f"guess {number}").get_json() == {"data": []}


def test_a_guessing_client_gets_429(make_api: MakeApi) -> None:
    api = make_api(guess_limit=LIMIT)
    before = sample("iot_unknown_passwords_total")
    guess(api)
    for path in ("/api/iot", "/api/iot/5", "/api/iot/seconds/5", "/api/rssi/maxtime", SERIES):
        answer = api.post(path, "guess again")
        error = assert_error(answer, 429, "too_many_requests")
        assert error["error"] == "too many unknown passwords from this address"
        assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert sample("iot_unknown_passwords_total") == before + LIMIT


def test_over_the_limit_right_and_wrong_passwords_look_the_same(
    make_api: MakeApi, writer: Writer
) -> None:
    """This also holds in the process that has opened the vault, for reads and PUTs."""
    api, other = make_api(guess_limit=LIMIT), make_api(guess_limit=LIMIT)
    api.put(row("right"))
    drain_all(writer)
    guess(other, LIMIT - 1)
    for ask in (api, other):
        for password in ("right", "wrong"):
            assert_error(ask.post(password=password), 429, "too_many_requests")
            error = assert_error(ask.put(row(password)), 429, "too_many_requests")
            assert error["error"] == "too many unknown passwords from this address"


def test_a_put_over_the_limit_stores_nothing(
    make_api: MakeApi, writer: Writer, redis: "Redis"
) -> None:
    api = make_api(guess_limit=LIMIT)
    api.put(row("right", freeform="taken"))
    guess(make_api(guess_limit=LIMIT), LIMIT - 1)
    # The process that holds the vault learns of the limit from the append script.
    assert api.put(row("right", freeform="refused")).status_code == 429
    key = {"Idempotency-Key": "k"}
    assert api.put(row("right", freeform="refused"), headers=key).status_code == 429
    redis.delete(KEYS.guesses("127.0.0.1"))
    drain_all(writer)
    assert [each["freeform"] for each in make_api().read(password="right")] == ['"taken"']


def test_a_put_that_creates_a_vault_is_a_guess(make_api: MakeApi) -> None:
    """The duration of a PUT discloses whether a password exists."""
    api = make_api(guess_limit=LIMIT)
    before = sample("iot_unknown_passwords_total")
    assert api.put([row(f"new {number}") for number in range(LIMIT)]).status_code == 201
    assert sample("iot_unknown_passwords_total") == before + LIMIT
    assert_error(api.put(row("one more")), 429, "too_many_requests")


def test_processes_share_the_counters_and_clients_do_not(make_api: MakeApi) -> None:
    settings = {"guess_limit": LIMIT, "trusted_proxies": 1}
    one, two = make_api(**settings), make_api(**settings)
    body = '{"data": {"db_password": "guess"}}'

    def status(api: Api, address: str) -> int:
        return api.ask("POST", "/api/iot", body, {"X-Forwarded-For": address}).status_code

    assert [status(api, "10.0.0.1") for api in (one, two, one, two, one)] == [200] * 3 + [429] * 2
    assert status(two, "10.0.0.2") == 200


def test_unanswered_passwords_count_but_make_no_suspect(settings: Settings, redis: "Redis") -> None:
    guesses = GuessLimit(redis, KeyNames(settings.redis_key_prefix), limit=2)
    client = Client("192.0.2.1")
    for _ in range(2):
        guesses.check(client)
        guesses.count_unanswered(client)
    assert not guesses.suspects(client)
    with pytest.raises(TooManyRequestsError):
        guesses.check(client)


def test_forged_addresses_share_a_limit(make_api: MakeApi) -> None:
    """Without a trusted proxy, the header may be forged by the guesser."""
    api = make_api(guess_limit=LIMIT)
    body = '{"data": {"db_password": "guess"}}'

    def status(address: str) -> int:
        return api.ask("POST", "/api/iot", body, {"X-Forwarded-For": address}).status_code

    one = [status("10.0.0.1") for _ in range(LIMIT + 1)]
    assert one == [200] * LIMIT + [429]  # a guesser behind a proxy locks out no other client
    made_up = [status(f"10.0.{number}.1") for number in range(1, WIDE_FACTOR * LIMIT)]
    assert made_up.count(200) == (WIDE_FACTOR - 1) * LIMIT
    assert made_up == sorted(made_up)


@pytest.mark.parametrize(
    "spellings",
    [
        ["192.0.2.7", "192.0.2.7:1", "192.0.2.7:2", '"192.0.2.7:3"', "::ffff:192.0.2.7"],
        ["2001:db8::7", "2001:DB8::7", "[2001:db8::7]", "[2001:db8::7]:1", "2001:db8:0:0:8::1"],
    ],
)
def test_all_spellings_of_an_address_count_as_one_client(
    make_api: MakeApi, spellings: list[str]
) -> None:
    """A proxy that adds the port must not make each connection a new client."""
    api = make_api(guess_limit=LIMIT, trusted_proxies=1)
    body = '{"data": {"db_password": "guess"}}'
    answers = [
        api.ask("POST", "/api/iot", body, {"X-Forwarded-For": f"198.51.100.{number}, {address}"})
        for number, address in enumerate(spellings)
    ]
    expected = [200] * LIMIT + [429] * (len(spellings) - LIMIT)
    assert [answer.status_code for answer in answers] == expected


def test_the_addresses_of_one_ipv6_customer_are_one_client(make_api: MakeApi) -> None:
    api = make_api(guess_limit=LIMIT, trusted_proxies=1)
    body = '{"data": {"db_password": "guess"}}'

    def status(address: str) -> int:
        return api.ask("POST", "/api/iot", body, {"X-Forwarded-For": address}).status_code

    assert [status(f"2001:db8::{number}") for number in range(LIMIT + 1)] == [200] * LIMIT + [429]
    assert status("2001:db8:0:1::1") == 200


def test_the_limit_ends_after_a_minute(make_api: MakeApi, redis: "Redis") -> None:
    api = make_api(guess_limit=LIMIT)
    guess(api)
    key = KEYS.guesses("127.0.0.1")
    assert 0 < redis.ttl(key) <= 60
    redis.delete(key)  # as if Redis had expired the key
    guess(api, 1)


def test_known_passwords_and_limit_zero_count_no_guesses(
    make_api: MakeApi, writer: Writer, redis: "Redis"
) -> None:
    limited, open_to_all = make_api(guess_limit=LIMIT), make_api(guess_limit=0)
    open_to_all.put(row("right"))
    drain_all(writer)
    redis.delete(KEYS.guesses("127.0.0.1"))
    for _ in range(2 * LIMIT):
        assert len(limited.read(password="right")) == 1
    guess(open_to_all, 2 * LIMIT)
    assert not redis.keys("iot:guesses:*")


@pytest.fixture
def environment(environment: dict[str, str]) -> dict[str, str]:
    """A limit that is reached well within a minute."""
    return environment | {"IOT_GUESS_LIMIT": "12"}


def test_a_device_continues_on_its_connection_beside_a_guesser(stack: Stack) -> None:
    """On a new connection, a device can't be distinguished from a guesser at the same address."""

    def put(connection: HTTPConnection, password: str, method: str = "PUT") -> int:
        connection.request(method, "/api/iot", json.dumps(row(password)), JSON)
        answer = connection.getresponse()
        answer.read()
        return answer.status

    device, reader, guesser, anew = (HTTPConnection("127.0.0.1", stack.port) for _ in range(4))
    assert put(device, "right") == 201
    assert put(reader, "right", "POST") == 200
    statuses = [put(guesser, f"guess {number}") for number in range(20)]
    assert statuses.count(201) == 11  # the first password of the device counts too
    for _ in range(3):
        assert put(device, "right") == 201
        for connection in (guesser, anew):
            assert put(connection, "right") == 429
            assert put(connection, "right", "POST") == 429
        assert put(device, "another") == 429
        assert put(reader, "right", "POST") == 200
        assert put(reader, "another", "POST") == 429
    for connection in (device, reader, guesser, anew):
        connection.close()


def test_a_proxy_connection_does_not_exempt_a_guesser(
    make_api: MakeApi,
) -> None:
    """A proxy sends the requests of device and guesser over one connection."""
    api = make_api(guess_limit=LIMIT, trusted_proxies=1)
    proven: set[bytes] = set()

    def put(password: str) -> int:
        with api.app.test_client() as client:
            headers = {"X-Forwarded-For": "192.0.2.7"}
            return client.put(
                "/api/iot", json=row(password), headers=headers, environ_overrides={PROVEN: proven}
            ).status_code

    assert put("right") == 201
    assert [put(f"guess {number}") for number in range(LIMIT)] == [201] * (LIMIT - 1) + [429]
    assert put("right") == 429
    assert not proven


def test_a_connection_does_not_exempt_a_vault_that_is_not_open(make_api: MakeApi) -> None:
    """Beyond the limit, a device may send only while the process has its vault open."""
    api = make_api(guess_limit=LIMIT)
    proven: set[bytes] = set()

    def put() -> int:
        with api.app.test_client() as client:
            return client.put(
                "/api/iot", json=row("right"), environ_overrides={PROVEN: proven}
            ).status_code

    assert put() == 201
    guess(api, LIMIT - 1)
    assert put() == 201
    cache = api.service.vaults.cache
    cache.forget(cache.key(b"right"))
    assert put() == 429


def test_an_old_password_proves_nothing_about_the_new_one(make_api: MakeApi) -> None:
    """A client that knew the old password may not find the new one beyond the guess limit."""
    api = make_api(guess_limit=LIMIT)
    proven: set[bytes] = set()

    def put(password: str) -> int:
        with api.app.test_client() as client:
            return client.put(
                "/api/iot", json=row(password), environ_overrides={PROVEN: proven}
            ).status_code

    assert put("old") == 201
    assert len(proven) == 1
    data = {"db_password": "old", "new_password": "new"}
    changed = api.ask("POST", "/api/vault/password", json.dumps({"data": data}), JSON)
    assert changed.status_code == 200
    guesses = [api.put(row(f"guess {number}")).status_code for number in range(LIMIT)]
    assert guesses[-1] == 429
    assert put("new") == 429


@pytest.mark.parametrize(
    "planted", ["no number", "-1", "1e9", "0x10", "inf", "", "9" * 5000, ["a list"]]
)
def test_a_counter_that_is_not_a_number_locks_out_no_client(
    make_api: MakeApi, redis: "Redis", planted: str | list[str]
) -> None:
    api = make_api(guess_limit=LIMIT)
    counter = KEYS.guesses("127.0.0.1")

    def plant() -> None:
        redis.delete(counter)
        if isinstance(planted, str):
            redis.set(counter, planted)
        else:
            redis.rpush(counter, *planted)

    assert api.put(row("right")).status_code == 201
    plant()
    assert api.put(row("right")).status_code == 201  # the script checks the counter
    assert api.put(row("right"), headers={"Idempotency-Key": "k"}).status_code == 201
    plant()
    damaged = sample("iot_damaged_total", what="guesses")
    guess(api, 1)
    assert sample("iot_damaged_total", what="guesses") > damaged
    assert redis.get(counter) == b"1"
    guess(api, LIMIT - 1)
    assert_error(api.put(row("right")), 429, "too_many_requests")


def _ask(api: Api, method: str) -> TestResponse:
    return api.put(row("right")) if method == "PUT" else api.post(password="right")


@pytest.mark.parametrize("method", ["PUT", "POST"])
@pytest.mark.parametrize("seconds", [None, 61 * 86_400])
def test_a_counter_with_a_long_expiry_is_reset(
    make_api: MakeApi, redis: "Redis", seconds: int | None, method: str
) -> None:
    """The clock of Redis was set back, or an attacker wrote the counter."""
    api, counter = make_api(guess_limit=LIMIT), KEYS.guesses("127.0.0.1")
    assert api.put(row("right")).status_code == 201
    redis.set(counter, LIMIT, ex=seconds)
    answer = _ask(api, method)
    assert_error(answer, 429, "too_many_requests")
    assert answer.headers["Retry-After"] == "1"
    assert 0 < redis.ttl(counter) <= 60
    wait_until(lambda: _ask(api, method).status_code < 300, what="the end of the limit")


@pytest.mark.parametrize("planted", ["no number", "1000000"])
def test_a_planted_counter_of_remembered_requests_locks_out_no_client(
    make_api: MakeApi, redis: "Redis", planted: str
) -> None:
    api = make_api()
    redis.set(KEYS.remembered_of_client("127.0.0.1"), planted)
    redis.hset(KEYS.remembered_counts, mapping={"4000000000": "1000000", "1": "many"})
    assert api.put(row("right"), headers={"Idempotency-Key": "k"}).status_code == 201
    assert redis.get(KEYS.remembered_of_client("127.0.0.1")) == b"1"
