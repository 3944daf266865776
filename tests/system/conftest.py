"""Stacks and a collector of spans for one test each."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from support.collector import Collector, collecting
from support.stack import MakeStack, Stack, running_stack


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector of OpenTelemetry spans."""
    with collecting() as server:
        yield server


@pytest.fixture
def make_stack(environment: dict[str, str], tmp_path: Path) -> Iterator[MakeStack]:
    """A function that starts an API and writers with the given settings."""
    with ExitStack() as opened:

        def make(changes: dict[str, str], **options: Any) -> Stack:
            return opened.enter_context(running_stack(environment | changes, tmp_path, **options))

        yield make
