"""Stacks for one test each."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.stack import MakeStack, Stack


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
