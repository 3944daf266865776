"""Guessing of passwords is slowed down, for all API processes together."""

from redis import Redis

from integration.api.asking import Api, assert_error, row, sample
from integration.api.conftest import MakeApi
from iot_models import names
from iot_writer.writer import Writer
from support.draining import drain_all

LIMIT = 3


def guess(api: Api, times: int = LIMIT) -> None:
    for number in range(times):
        assert api.post(password=f"guess {number}").get_json() == {"data": []}


def test_an_address_that_guesses_is_told_to_wait(make_api: MakeApi) -> None:
    api = make_api(guess_limit=LIMIT)
    before = sample("iot_unknown_passwords_total")
    guess(api)
    for path in ("/api/iot", "/api/iot/5", "/api/iot/seconds/5", "/api/rssi/maxtime"):
        answer = api.post(path, "guess again")
        error = assert_error(answer, 429, "too_many_requests")
        assert error["error"] == "too many unknown passwords from this address"
        assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert sample("iot_unknown_passwords_total") == before + LIMIT


def test_over_the_limit_the_right_password_is_not_told_from_a_wrong_one(
    make_api: MakeApi, writer: Writer
) -> None:
    api, other = make_api(guess_limit=LIMIT), make_api(guess_limit=LIMIT)
    api.put(row("right"))
    drain_all(writer)
    guess(other)
    assert_error(other.post(password="right"), 429, "too_many_requests")


def test_what_is_open_stays_readable_and_readings_are_taken(
    make_api: MakeApi, writer: Writer
) -> None:
    api = make_api(guess_limit=LIMIT)
    api.put(row("right"))
    drain_all(writer)
    guess(api)
    assert len(api.read(password="right")) == 1
    assert api.put(row("a new one")).status_code == 201


def test_all_processes_count_together_and_each_address_alone(make_api: MakeApi) -> None:
    settings = {"guess_limit": LIMIT, "trusted_proxies": 1}
    one, two = make_api(**settings), make_api(**settings)
    body = '{"data": {"db_password": "guess"}}'

    def status(api: Api, address: str) -> int:
        return api.ask("POST", "/api/iot", body, {"X-Forwarded-For": address}).status_code

    assert [status(api, "10.0.0.1") for api in (one, two, one, two, one)] == [200] * 3 + [429] * 2
    assert status(two, "10.0.0.2") == 200


def test_an_address_can_t_pass_for_another_where_no_proxy_is_trusted(make_api: MakeApi) -> None:
    api = make_api(guess_limit=LIMIT)
    guess(api)
    answer = api.ask(
        "POST", "/api/iot", '{"data": {"db_password": "x"}}', {"X-Forwarded-For": "10.0.0.9"}
    )
    assert_error(answer, 429, "too_many_requests")


def test_the_minute_passes(make_api: MakeApi, redis: "Redis") -> None:
    api = make_api(guess_limit=LIMIT)
    guess(api)
    key = names.guesses("127.0.0.1")
    assert 0 < redis.ttl(key) <= 60
    redis.delete(key)  # as Redis does then
    guess(api, 1)


def test_right_passwords_and_no_limit_count_nothing(
    make_api: MakeApi, writer: Writer, redis: "Redis"
) -> None:
    limited, open_to_all = make_api(guess_limit=LIMIT), make_api(guess_limit=0)
    limited.put(row("right"))
    drain_all(writer)
    for _ in range(2 * LIMIT):
        assert len(limited.read(password="right")) == 1
    guess(open_to_all, 2 * LIMIT)
    assert not redis.keys("iot:guesses:*")
