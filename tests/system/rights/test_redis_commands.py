"""The documented commands of redis-cli work where Redis has the users of production."""

import os
import re
import shutil
from pathlib import Path

import pytest
from redis import Redis

from support.code_blocks import ROOT, code_blocks, run_script
from system.rights.stores import RedisWithUsers

HOST = "-h redis.example.org"
COMMANDS = [
    line
    for block in code_blocks("console")
    for line in block.text.splitlines()
    if line.startswith("redis-cli ")
]
INLINE = re.compile(r"`(redis-cli --?[a-zA-Z][^`]*|redis-cli [A-Z]+ [^`]*)`")

pytestmark = pytest.mark.skipif(shutil.which("redis-cli") is None, reason="redis-cli is missing")


def run(redis: RedisWithUsers, line: str, directory: Path) -> str:
    """Run a command as the administrator, and return its output."""
    with redis.client("admin") as client:
        client.config_set("repl-diskless-sync-delay", 0)  # else a copy begins after 5 s
    local = f"-h 127.0.0.1 -p {redis.port}"
    script = line.replace(HOST, local)
    assert local in script, line
    environment = {"PATH": os.environ["PATH"], "REDISCLI_AUTH": "admin"}
    said = run_script(script, directory, environment, place=line)
    assert not re.search("NOAUTH|NOPERM|WRONGPASS", said), said
    return said


def test_redis_is_copied(redis_users: RedisWithUsers, tmp_path: Path) -> None:
    (line,) = (each for each in COMMANDS if "--rdb" in each)
    run(redis_users, line, tmp_path)
    assert (tmp_path / "redis.rdb").read_bytes().startswith(b"REDIS")


def test_redis_is_emptied(redis_users: RedisWithUsers, tmp_path: Path) -> None:
    with Redis.from_url(redis_users.url("admin")) as client:
        client.set("iot:owner", "x")
        (line,) = (each for each in COMMANDS if "FLUSHDB" in each)
        run(redis_users, line, tmp_path)
        assert client.dbsize() == 0


def test_commands_of_runbooks_are_answered(redis_users: RedisWithUsers, tmp_path: Path) -> None:
    text = (ROOT / "docs/runbooks.md").read_text(encoding="utf-8")
    found = {each for each in INLINE.findall(text) if "--rdb" not in each}
    assert len(found) == 3
    for line in sorted(found):
        # As the section *Users of Postgres and Redis* says.
        run(redis_users, line.replace("redis-cli", f"redis-cli {HOST} --user admin"), tmp_path)
