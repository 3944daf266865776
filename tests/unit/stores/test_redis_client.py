"""The Redis clients of the backlog and of the hot window."""

from dataclasses import replace

import pytest

from iot_models.errors import SettingsError
from iot_models.settings import load
from iot_stores.redis_client import connect_hot_window, connect_redis

REQUIRED = {
    "IOT_POSTGRES_URL": "postgresql://db/iot",
    "IOT_KEYRING_FILE": "/keys/keyring.json",
    "IOT_REDIS_URL": "redis://queue/0",
}


@pytest.mark.parametrize("url", ["", "redis://queue/0"])
def test_the_hot_window_shares_the_client_of_an_equal_url(url: str) -> None:
    settings = load(REQUIRED | {"IOT_HOT_WINDOW_REDIS_URL": url})
    shared = connect_redis(settings)
    assert connect_hot_window(settings, shared) is shared


@pytest.mark.parametrize(
    ("url", "host"),
    [("redis://hot/0", "hot"), ("redis://queue/1", "queue"), ("rediss://hot/0/", "hot")],
)
def test_a_separate_hot_window_has_a_separate_client(url: str, host: str) -> None:
    settings = load(REQUIRED | {"IOT_HOT_WINDOW_REDIS_URL": url})
    shared = connect_redis(settings)
    made = connect_hot_window(settings, shared, timeout=0.5)
    assert made is not shared
    options = made.connection_pool.connection_kwargs
    assert (options["host"], options["socket_timeout"]) == (host, 0.5)
    assert options["socket_connect_timeout"] == 0.5
    assert shared.connection_pool.connection_kwargs["socket_timeout"] > 1


@pytest.mark.parametrize(
    "url",
    [
        "",
        "redis",
        ":secret@hot:6379",
        "http://hot:6379/0",
        "sentinel://a:1,b:2/mine",
        "redis-sentinel://a:1,b:2/mine",
        "http+sentinel://a/mine",
    ],
)
def test_the_error_of_a_wrong_scheme_lists_the_schemes(url: str) -> None:
    with pytest.raises(SettingsError) as raised:
        connect_redis(replace(load(REQUIRED), redis_url=url))
    assert str(raised.value) == (
        "IOT_REDIS_URL: the URL must begin with one of redis://, rediss://, redis+sentinel://, "
        "rediss+sentinel://, unix://"
    )


@pytest.mark.parametrize(
    "url",
    [
        "http://hot",
        "redis://:secret@hot:x/0",
        "redis://:secret#@hot/0",
        "redis://:secret/@hot/0",
        "redis://:secret?@hot/0",
        "redis://:12secret[@hot/0",
        "redis://:12/secret@hot/0",
        "redis://hot/abc",
        "redis://hot/1/2",
        "redis://hot:6379/-1",
        "redis://hot..b/0",
        "redis://h%C3%BC..b/0",
        "redis://hot?unheard_of=1",
        "redis+sentinel://hot",
        "redis+sentinel://hot:x/mine",
        "redis+sentinel://hot,,b/mine",
        "redis+sentinel://hot..b/mine",
        "redis+sentinel://hot/mine?socket_timeout=soon",
    ],
)
def test_an_invalid_url_names_the_variable_and_no_password(url: str) -> None:
    settings = load(REQUIRED | {"IOT_HOT_WINDOW_REDIS_URL": url})
    with pytest.raises(SettingsError) as raised:
        connect_hot_window(settings, connect_redis(settings))
    assert str(raised.value).startswith("IOT_HOT_WINDOW_REDIS_URL")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("server", ["rediss://hot", "rediss+sentinel://hot/mine"])
@pytest.mark.parametrize("name", ["ssl_ca_certs", "ssl_certfile", "ssl_keyfile"])
def test_a_missing_certificate_is_named(server: str, name: str) -> None:
    settings = replace(load(REQUIRED), redis_url=f"{server}/0?{name}=/nope")
    with pytest.raises(SettingsError) as raised:
        connect_redis(settings)
    assert str(raised.value) == f"IOT_REDIS_URL: {name}: /nope: No such file or directory"
