"""The clients of Redis: one for the backlog, and for the hot window the same or another."""

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
def test_without_its_own_the_hot_window_shares_the_backlog_s(url: str) -> None:
    settings = load(REQUIRED | {"IOT_HOT_WINDOW_REDIS_URL": url})
    shared = connect_redis(settings)
    assert connect_hot_window(settings, shared) is shared


@pytest.mark.parametrize(
    ("url", "host"),
    [("redis://hot/0", "hot"), ("redis://queue/1", "queue"), ("rediss://hot/0", "hot")],
)
def test_its_own(url: str, host: str) -> None:
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
        "http://hot",
        "redis://:secret@hot:x/0",
        "redis://:secret#@hot/0",
        "redis://:secret/@hot/0",
        "redis://:secret?@hot/0",
        "redis://:12secret[@hot/0",
        "redis://hot?unheard_of=1",
        "redis+sentinel://hot",
        "redis+sentinel://hot:x/mine",
        "redis+sentinel://hot,,b/mine",
        "redis+sentinel://hot/mine?socket_timeout=soon",
    ],
)
def test_a_wrong_url_is_one_sentence_that_names_the_variable(url: str) -> None:
    settings = load(REQUIRED | {"IOT_HOT_WINDOW_REDIS_URL": url})
    with pytest.raises(SettingsError) as raised:
        connect_hot_window(settings, connect_redis(settings))
    assert str(raised.value).startswith("IOT_HOT_WINDOW_REDIS_URL")
    assert "secret" not in str(raised.value)
