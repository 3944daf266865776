"""Stores and stacks for one test each."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.stack import Stack
from system.reliability.redis_group import Group

MakeStack = Callable[..., Stack]


@pytest.fixture
def make_stack(environment: dict[str, str], tmp_path: Path) -> Iterator[MakeStack]:
    """A function that starts an API and writers with the given settings."""
    with ExitStack() as opened:

        def make(changes: dict[str, str], *, writers: int = 1) -> Stack:
            stack = Stack(environment | changes, tmp_path)
            opened.callback(stack.stop)
            stack.start_api()
            for _ in range(writers):
                stack.start_writer()
            return stack

        yield make


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Group]:
    """A master and a replica."""
    group = Group(tmp_path / "pair", replicas=1, sentinels=0)
    yield group
    group.stop()


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    """A master, two replicas and three Sentinels."""
    made = Group(tmp_path / "group", replicas=2, sentinels=3)
    yield made
    made.stop()
