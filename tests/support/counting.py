"""Counts of operations, which are the same on every machine."""

import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, cast

import psycopg
from psycopg.pq import Trace
from redis import Redis

_OF_CONNECTIONS = {"auth", "client", "config", "hello", "info", "ping", "select"}


@contextmanager
def redis_commands(client: "Redis") -> Iterator["Counter[str]"]:
    """Count the Redis commands within the block, even in scripts, without connection setup."""
    client.config_resetstat()
    counted: Counter[str] = Counter()
    yield counted
    stats = cast("dict[str, dict[str, int]]", client.info("commandstats"))
    for name, each in stats.items():
        command = name.removeprefix("cmdstat_").partition("|")[0]
        if command not in _OF_CONNECTIONS:
            counted[command] += each["calls"]


@contextmanager
def postgres_messages(connection: "psycopg.Connection[Any]") -> Iterator["Counter[str]"]:
    """Count the statements and the round trips of a connection within the block."""
    counted: Counter[str] = Counter()
    with tempfile.TemporaryFile("w+") as told:
        connection.pgconn.trace(told.fileno())
        connection.pgconn.set_trace_flags(Trace.SUPPRESS_TIMESTAMPS)
        try:
            yield counted
        finally:
            connection.pgconn.untrace()
        told.seek(0)
        kinds = Counter(re.findall(r"^F\t\d+\t(\w+)", told.read(), re.MULTILINE))
    counted["statements"] = kinds["Query"] + kinds["Execute"]
    counted["round trips"] = kinds["Query"] + kinds["Sync"]


def function_calls(work: Callable[[], object]) -> int:
    """Return how many calls of Python and C functions `work` makes in this thread."""
    calls = 0

    def count(_: object, event: str, __: object) -> None:
        nonlocal calls
        if event in {"call", "c_call"}:
            calls += 1

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls


def calls_into(package: str, work: Callable[[], object]) -> "Counter[str]":
    """Return how often `work` calls each function of a package, in this thread."""
    counted: Counter[str] = Counter()

    def count(frame: FrameType, event: str, __: object) -> None:
        if event == "call" and f"/{package}/" in frame.f_code.co_filename:
            counted[frame.f_code.co_qualname] += 1

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return counted
