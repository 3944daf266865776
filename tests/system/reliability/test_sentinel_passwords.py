"""Sentinels with a password that differs from the password of the master."""

import dataclasses
import json
from pathlib import Path
from urllib.parse import quote

import pytest
from redis.exceptions import RedisError

from iot_models.settings import Settings
from iot_stores.redis_client import connect_redis
from iot_stores.store_states import state_of
from support.stack import MakeStack
from support.waiting import wait_until
from system.reliability.redis_group import NAME, PASSWORD, Group

SENTINEL_PASSWORD = "s%41ntinel+&=@/?"


@pytest.mark.parametrize("user", ["", "asking"])
def test_a_failover_with_passwords_of_sentinels_continues(
    user: str, make_stack: MakeStack, settings: Settings, tmp_path: Path
) -> None:
    group = Group(
        tmp_path / "group",
        replicas=1,
        sentinels=3,
        sentinel_user=user,
        sentinel_password=SENTINEL_PASSWORD,
    )
    secrets = {"sentinel_username": user, "sentinel_password": SENTINEL_PASSWORD}
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in secrets.items() if value)
    try:
        for refused, code in (("", "NOAUTH"), ("?sentinel_password=wrong", "WRONGPASS")):
            url = f"{group.url}{refused}"
            with (
                connect_redis(dataclasses.replace(settings, redis_url=url)) as client,
                pytest.raises(RedisError, match=f"No master found for '{NAME}'") as caught,
            ):
                client.ping()
            state = state_of(caught.value)
            assert state is not None
            assert (state.code, state.sentence.count("127.0.0.1:")) == (code, 3)
        stack = make_stack({"IOT_REDIS_URL": f"{group.url}?{query}"})
        body = [{"data": {"db_password": "p", "interrogator_time": 1}}]
        assert stack.put(body).status == 201
        wait_until(lambda: stack.read("p"), what="a reading that is stored")
        group.master.kill()
        wait_until(group.promoted, what="another master")
        wait_until(lambda: stack.put(body).status == 201, what="a PUT")
        assert stack.request("GET", "/readyz").status == 200
        stack.stop()
    finally:
        group.stop()
    logs = "".join(each.read_text(encoding="utf-8") for each in tmp_path.glob("*.log"))
    assert "Redis is away" in logs
    for secret in (PASSWORD, SENTINEL_PASSWORD, *map(quote_all, (PASSWORD, SENTINEL_PASSWORD))):
        assert secret not in logs
        assert secret not in json.dumps(logs)


def quote_all(secret: str) -> str:
    """Percent-encode every character."""
    return quote(secret, safe="")
