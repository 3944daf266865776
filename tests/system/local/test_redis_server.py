"""The local Redis keeps acknowledged data, and refuses clients without the password."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from iot_tools.local.child import LaunchError, wait_until
from iot_tools.local.redis_server import RedisServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis", appendfsync="always")
    yield server
    server.stop()


def test_redis_keeps_its_data_after_a_stop_and_a_kill(server: RedisServer) -> None:
    server.start()
    with redis.Redis.from_url(server.url) as client:
        client.set("a", "1")
        assert server.stop()
        server.start()
        client.set("b", "2")
        server.kill(signal.SIGKILL)
        assert not server.running
        server.start()
        assert client.mget("a", "b") == [b"1", b"2"]


def test_redis_is_configured_for_a_queue(tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "redis", config=["maxmemory 64mb"])
    server.start()
    with redis.Redis.from_url(server.url) as client:
        config = client.config_get("*")
    server.stop()
    assert config["appendonly"] == "yes"
    assert config["appendfsync"] == "everysec"
    assert config["maxmemory-policy"] == "noeviction"
    assert config["save"] == ""
    assert config["bind"] == "127.0.0.1"
    assert config["maxmemory"] == str(64 * 2**20)


def test_the_password_is_required_and_secret(server: RedisServer) -> None:
    server.start()
    with (
        redis.Redis(port=server.port) as stranger,
        pytest.raises(redis.AuthenticationError),
    ):
        stranger.ping()
    arguments = Path(f"/proc/{server.pid}/cmdline").read_text(encoding="utf-8")
    password = server.url.removeprefix("redis://:").partition("@")[0]
    assert password not in arguments
    for path in server.directory.glob("*.conf"):
        assert path.stat().st_mode & 0o077 == 0


def test_two_servers_never_share_a_directory(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iot_tools.local.server._LOCK_SECONDS", 0.1)
    server.start()
    with pytest.raises(LaunchError, match=f"in use by process {os.getpid()}"):
        RedisServer(server.directory).start()


def test_a_failed_start_shows_the_log(tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "redis", config=["no-such-setting 1"])
    with pytest.raises(LaunchError, match=r"(?s)redis did not start.*no-such-setting"):
        server.start()


def test_a_frozen_redis_is_not_ready_until_it_continues(server: RedisServer) -> None:
    server.start()
    server.kill(signal.SIGSTOP)
    assert not server.ready()
    server.kill(signal.SIGCONT)
    assert wait_until(server.ready, 10)
