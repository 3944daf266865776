"""Facts about a run: the machine, the versions of all programs, the durability of each side."""

import os
import platform
import re
from importlib.metadata import version
from pathlib import Path

import psycopg
from redis import Redis

from .stage import Stage


def machine() -> list[tuple[str, str]]:
    """Return the cores, memory, kernel, Python version and load average of the machine."""
    cpu = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    memory = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text(encoding="utf-8"))
    gib = int(memory[1]) / 2**20 if memory else 0
    return [
        ("cores", f"{os.cpu_count()} ({cpu[1] if cpu else platform.machine()})"),
        ("memory", f"{gib:.0f} GiB"),
        ("kernel", f"{platform.system()} {platform.release()}"),
        ("Python", platform.python_version()),
        ("load average before the run", f"{os.getloadavg()[0]:.2f}"),
    ]


def versions(stage: Stage) -> list[tuple[str, str]]:
    """Return the version of every program that takes part."""
    with Redis.from_url(stage.service.redis_url) as client:
        redis = str(client.info("server")["redis_version"])
    with psycopg.connect(stage.service.postgres_url) as connection:
        number = connection.info.server_version
    packages = (
        "gunicorn",
        "gevent",
        "flask",
        "msgspec",
        "redis",
        "psycopg",
        "cryptography",
        "duckdb",
    )
    found = [(peer.name, peer.version()) for peer in stage.peers.values()]
    found += [("Redis", redis), ("PostgreSQL", f"{number // 10_000}.{number % 10_000}")]
    return [*found, ("packages", ", ".join(f"{name} {version(name)}" for name in packages))]


def durability(stage: Stage) -> list[tuple[str, str]]:
    """Return the durability and the settings of each side."""
    return [(side.name, f"{side.durability}. Settings: {side.settings}") for side in stage.sides]
