"""Wrong arguments fail at the call, with an error that names them."""

import asyncio
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from iot_sensor_client import AsyncClient, Client, Outbox
from unit.client.conftest import Server

URL = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"url": None}, "url must be a str, not NoneType"),
        ({"url": URL.encode()}, "url must be a str, not bytes"),
        ({"password": b"secret"}, "password must be a str, not bytes"),
        ({"password": 5}, "password must be a str, not int"),
        ({"token": b"token"}, "token must be a str, not bytes"),
        ({"retry": 3}, "retry must be a RetryPolicy, not int"),
        ({"timeout": "5"}, "timeout must be a number, not str"),
        ({"connect_timeout": "5"}, "connect_timeout must be a number, not str"),
    ],
)
def test_a_wrong_type(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=f"^{message}$"):
        Client(**{"url": URL, **arguments})


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf, 1e300])
@pytest.mark.parametrize("name", ["timeout", "connect_timeout"])
def test_a_timeout_that_a_socket_can_t_have(name: str, seconds: float) -> None:
    options: dict[str, Any] = {name: seconds}
    message = f"^{name} must be a number of seconds greater than 0, not "
    with pytest.raises(ValueError, match=message):
        Client(URL, **options)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"interval": "1"}, TypeError, "interval must be a number, not str"),
        ({"interval": -1}, ValueError, "interval must be a number of seconds from 0 to "),
        ({"overlap": None}, TypeError, "overlap must be a number, not NoneType"),
        ({"overlap": math.inf}, ValueError, "overlap must be a number of seconds from 0 to "),
        ({"stop": "soon"}, TypeError, "stop must be a threading.Event, not str"),
    ],
)
def test_a_follow_that_can_t_begin(
    arguments: dict[str, Any], error: type[Exception], message: str, server: Server
) -> None:
    async def follow() -> None:
        with Client(server.url) as client:
            await anext(AsyncClient(client).follow(**arguments))

    with pytest.raises(error, match=f"^{message}"):
        asyncio.run(follow())
    with Client(server.url) as client, pytest.raises(error, match=f"^{message}"):
        next(client.follow(**arguments))
    assert server.received == []


@pytest.mark.parametrize("token", ["SECRET\nsecond line", "SECRET token", "SECRET密"])
def test_an_invalid_token_is_not_in_the_message(server: Server, token: str) -> None:
    def from_function() -> None:
        with Client(server.url, token=lambda: token) as client:
            client.read()

    for call in (lambda: Client(URL, token=token), from_function):
        with pytest.raises(ValueError, match=r"^token must be printable ASCII without spaces$"):
            call()
    assert server.received == []


@pytest.mark.parametrize("key", ["", " ", "a ", "a\nb", "é", "k" * 256])
def test_an_invalid_idempotency_key(server: Server, key: str) -> None:
    message = "^idempotency_key must be 1 to {} characters of printable ASCII, without spaces"
    with Client(server.url) as client:
        with pytest.raises(ValueError, match=message.format(255)):
            client.put_readings([{"freeform": 1}], idempotency_key=key)
        for each in (key, "k" * 241):  # `send` appends the number of the batch
            with pytest.raises(ValueError, match=message.format(240)):
                client.send([{"freeform": 1}], idempotency_key=each)
    assert server.received == []


@pytest.mark.parametrize("url", ["http://a b/", "http://[::1", "http://host:99999", "host:80"])
def test_an_invalid_url(url: str) -> None:
    with pytest.raises(ValueError, match=r"^the URL must have the form http"):
        Client(url)


def test_a_function_that_returns_no_text(server: Server) -> None:
    token: Callable[[], Any] = lambda: b"token"  # noqa: E731 -- as a program would pass it
    with (
        Client(server.url, token=token) as client,
        pytest.raises(TypeError, match=r"^token must be a str, not bytes$"),
    ):
        client.read()
    assert server.received == []


def test_a_new_password_that_is_no_text(server: Server) -> None:
    new: Any = b"new"
    with (
        Client(server.url, "old") as client,
        pytest.raises(TypeError, match=r"^new_password must be a str, not bytes$"),
    ):
        client.change_password(new)
    assert server.received == []


@pytest.mark.parametrize(
    ("readings", "error", "kind"),
    [
        (5, TypeError, "int"),
        (None, TypeError, "NoneType"),
        ({"relative_time": 1}, ValueError, "a dict"),
        ("text", ValueError, "a str"),
        (b"text", ValueError, "a bytes"),
    ],
)
def test_readings_that_are_no_list(
    server: Server, tmp_path: Path, readings: Any, error: type[Exception], kind: str
) -> None:
    message = f"^readings must be a list of mappings, not {kind}$"
    with Client(server.url, "p") as client, Outbox(client, tmp_path / "outbox") as outbox:
        calls: list[Callable[[Any], object]] = [client.put_readings, client.send]
        for call in calls if isinstance(readings, dict) else [*calls, outbox.send]:
            with pytest.raises(error, match=message):
                call(readings)
    assert server.received == []


def test_a_member_that_the_service_would_ignore(server: Server, tmp_path: Path) -> None:
    """A time of receipt, for example: the service takes it only from an import."""
    reading = {"freeform": 1, "absolute_timestamp": "2026-11-28 07:00:01"}
    message = (
        "^reading 0 has the member 'absolute_timestamp', which the service would ignore: only "
        "`iot-sensor import` "
    )
    with Client(server.url, "p") as client, Outbox(client, tmp_path / "outbox") as outbox:
        for call in (client.put_readings, client.send, outbox.send):
            with pytest.raises(ValueError, match=message):
                call([reading])
    assert server.received == []


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"retry": 3}, TypeError, "retry must be a RetryPolicy, not int"),
        ({"in_doubt": "Send"}, ValueError, "in_doubt must be 'set_aside' or 'send', not 'Send'"),
        ({"linger": "x"}, TypeError, "linger must be a number, not str"),
        ({"linger": -1}, ValueError, "linger must be a number of seconds from 0 to "),
        ({"interval": -1}, ValueError, "interval must be a number of seconds from 0 to "),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, not 0"),
        ({"max_bytes": -1}, ValueError, "max_bytes must be at least 1, not -1"),
        ({"max_bytes": "1 MiB"}, TypeError, "max_bytes must be an int, not str"),
    ],
)
def test_an_outbox_that_can_t_begin(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with Client(URL) as client, pytest.raises(error, match=f"^{message}"):
        Outbox(client, tmp_path / "outbox", **options)
    assert not list(tmp_path.iterdir())


def test_a_batch_without_readings(server: Server) -> None:
    with (
        Client(server.url) as client,
        pytest.raises(ValueError, match=r"^batch_size must be at least 1, not 0$"),
    ):
        client.send([{"freeform": 1}], batch_size=0)
    assert server.received == []
