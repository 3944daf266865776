"""Stores and stacks for one test each."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from system.reliability.redis_group import Group


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
