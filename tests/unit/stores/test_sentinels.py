"""URLs of a Redis behind Sentinels are parsed, and errors name the variable or the Sentinel."""

import errno
import socket

import pytest
from redis import Redis
from redis.exceptions import RedisError
from redis.sentinel import SentinelConnectionPool

from iot_models.errors import SettingsError
from iot_models.settings import Settings
from iot_stores.redis_client import CONNECT_SECONDS, RESPONSE_SECONDS, connect_redis
from iot_stores.store_states import state_of


def settings(url: str) -> Settings:
    return Settings(redis_url=url, postgres_url="postgresql:", keyring_file="keyring")


def connected(url: str) -> tuple["Redis", SentinelConnectionPool]:
    client = connect_redis(settings(url))
    pool = client.connection_pool
    assert isinstance(pool, SentinelConnectionPool)
    return client, pool


def sentinels(pool: SentinelConnectionPool) -> list[tuple[str, int]]:
    found = [each.get_connection_kwargs() for each in pool.sentinel_manager.sentinels]
    return [(each["host"], each["port"]) for each in found]


def test_a_complete_url_is_parsed() -> None:
    client, pool = connected("redis+sentinel://us%40r:p%3Ass@a:1,b:2,[::1]:3/mine/7")
    assert pool.service_name == "mine"
    assert pool.is_master
    assert sentinels(pool) == [("a", 1), ("b", 2), ("::1", 3)]
    given = client.get_connection_kwargs()
    assert (given["username"], given["password"], given["db"]) == ("us@r", "p:ss", 7)
    assert given["socket_timeout"] == RESPONSE_SECONDS
    assert given["socket_connect_timeout"] == CONNECT_SECONDS


def test_a_minimal_url_has_defaults() -> None:
    client, pool = connected("redis+sentinel://a/mine")
    assert sentinels(pool) == [("a", 26379)]
    given = client.get_connection_kwargs()
    assert (given["username"], given["password"], given["db"]) == (None, None, 0)


def test_sentinels_do_not_receive_the_password_of_redis() -> None:
    _, pool = connected("redis+sentinel://:secret@a/mine")
    for each in pool.sentinel_manager.sentinels:
        assert each.get_connection_kwargs().get("password") is None


@pytest.mark.parametrize(
    ("scheme", "connection"),
    [
        ("redis", "_Connection"),
        ("rediss", "_TlsConnection"),
    ],
)
def test_the_scheme_rediss_enables_tls(scheme: str, connection: str) -> None:
    query = f"?ssl_ca_certs={__file__}" if scheme == "rediss" else ""
    _, pool = connected(f"{scheme}+sentinel://a/mine/0{query}")
    assert pool.connection_class.__name__ == connection
    for each in pool.sentinel_manager.sentinels:
        assert each.get_connection_kwargs().get("ssl_ca_certs") == (query[14:] or None)


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://",
        "redis+sentinel://a",
        "redis+sentinel://a/",
        "redis+sentinel:///mine",
        "redis+sentinel://a/mine/x",
        "redis+sentinel://a/mine/0/1",
        "redis+sentinel://a:x/mine",
        "redis+sentinel://a:/mine",
        "redis+sentinel://a:99999/mine",
        "redis+sentinel://a,,b/mine",
        "redis+sentinel://:secret@a:1@b/mine",
        "http+sentinel://a/mine",
        "redis+sentinel://a/mine?socket_timeout=soon",
        "redis+sentinel://a/mine?unheard_of=1",
        "http://a",
        "redis://a:x/0",
        "redis://a?unheard_of=1",
        "redis://a?socket_timeout=soon",
        "",
    ],
)
def test_an_invalid_url_names_the_variable_and_no_password(url: str) -> None:
    with pytest.raises(SettingsError) as raised:
        connect_redis(settings(url))
    said = str(raised.value)
    assert said.startswith("IOT_REDIS_URL")
    assert "\n" not in said
    assert "secret" not in said


@pytest.mark.parametrize(
    ("written", "meant"), [("p%26%3D%25", "p&=%"), ("a+b", "a+b"), ("%2541", "%41"), ("", "")]
)
def test_sentinels_have_a_separate_user_and_password(written: str, meant: str) -> None:
    query = f"?sentinel_username=me%40x&sentinel_password={written}&health_check_interval=7"
    client, pool = connected(f"redis+sentinel://:secret@a,b/mine/3{query}")
    for each in pool.sentinel_manager.sentinels:
        given = each.get_connection_kwargs()
        assert (given["username"], given["password"]) == ("me@x", meant)
        assert given["health_check_interval"] == 7
    given = client.get_connection_kwargs()
    assert (given["username"], given["password"], given["db"]) == (None, "secret", 3)


def test_a_sentinel_password_needs_a_sentinel_url() -> None:
    with pytest.raises(SettingsError) as caught:
        connect_redis(settings("redis://a/0?sentinel_password=hunter2"))
    assert "hunter2" not in str(caught.value)


def test_an_error_has_the_reason_of_each_sentinel() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # without `listen`, it refuses connections
        addresses = [f"{host}:{closed.getsockname()[1]}" for host in ("127.0.0.1", "localhost")]
        with (
            connect_redis(settings(f"redis+sentinel://{','.join(addresses)}/mine")) as client,
            pytest.raises(RedisError) as caught,
        ):
            client.ping()
    assert str(state_of(caught.value)) == (
        f"Redis is away: No master found for 'mine'; Sentinel {', '.join(addresses)}: "
        f"Error {errno.ECONNREFUSED}: Connection refused"
    )
