"""A hot window on a separate Redis never claims segments that it lacks."""

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from redis.exceptions import ConnectionError as AwayError

from integration.writer.sending import Sender
from iot_models.settings import Settings, load
from iot_stores import history
from iot_stores.history import ReadFilter
from iot_stores.hot_window import HotWindow
from iot_tools.local.redis_server import RedisServer
from iot_writer import writer as writer_module
from iot_writer.drain.drain import DrainOutcome
from iot_writer.writer import Writer
from support.counting import redis_commands

_numbers = itertools.count()
Write = Callable[[], None]


@pytest.fixture(scope="module")
def hot_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The separate Redis."""
    server = RedisServer(tmp_path_factory.mktemp("hot"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def settings(environment: dict[str, str], hot_server: RedisServer) -> Settings:
    """Settings with a separate hot window and one shard."""
    given = {"IOT_HOT_WINDOW_REDIS_URL": hot_server.url, "IOT_SHARDS": "1"}
    return load(environment | given)


@pytest.fixture(autouse=True)
def early_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a writer retry the hot window at each drain."""
    monkeypatch.setattr(writer_module, "HOT_WINDOW_PAUSE_SECONDS", 0.0)


class _Stalled(Exception):  # noqa: N818 - not an error: a stalled writer
    """The writer stalls between its commit and the hot window."""


class Story:
    """Drains of one shard that stall and continue, and a hot window that fails and returns."""

    def __init__(self, writer: Writer, sender: Sender) -> None:
        self.writer = writer
        self.sender = sender
        self.hot = writer.hot_redis
        self.window: HotWindow = writer.drain._hot_window  # noqa: SLF001 - the step to stall at
        self.write = self.window.write
        self.away = False
        self.backup: dict[bytes, bytes] = {}
        self.stalled: list[Write] = []
        self.password = b"%d" % next(_numbers)
        self.vault_id = sender.vault(self.password).vault_id
        self.finished: set[int] = set()
        """Ids of segments whose entries are removed from the backlog. A client that waited for
        one of these segments has its answer."""

    def send(self) -> None:
        self.sender.send(self.password)
        time.sleep(0.002)  # the clock of Redis advances

    def drain(self) -> None:
        self._drain(self._reach)

    def stall(self) -> None:
        def halt(*arguments: Any, **named: Any) -> None:
            self.stalled.append(lambda: self._reach(*arguments, **named))
            raise _Stalled

        self._drain(halt)

    def go_on(self) -> None:
        if self.stalled:
            try:
                self.stalled.pop(0)()
            except AwayError:
                assert self.away

    def leave(self) -> None:
        self.away = True

    def come_back(self) -> None:
        self.away = False

    def wipe(self) -> None:
        self.hot.flushall()

    def save(self) -> None:
        keys = cast("list[bytes]", list(self.hot.scan_iter()))
        self.backup = {key: cast("bytes", self.hot.dump(key)) for key in keys}

    def restore(self) -> None:
        """Restore the saved state."""
        self.hot.flushall()
        for key, dumped in self.backup.items():
            self.hot.restore(key, 0, dumped)

    def check(self) -> None:
        """Check that the window holds all segments that it claims to cover."""
        for seconds in (1, 250):
            coverage = self.window.coverage(self.vault_id, 0, seconds)
            if coverage.bounds is None:
                continue
            question = ReadFilter(received_low=coverage.begin)
            found = history.select(self.writer.postgres(), self.vault_id, question)
            stored = {segment.bounds.first_id for segment in found}
            held = {bounds.first_id for bounds in coverage.bounds}
            assert not (stored & self.finished) - held

    def _reach(self, *arguments: Any, **named: Any) -> None:
        if self.away:
            raise AwayError("away")
        self.write(*arguments, **named)

    def _drain(self, write: Callable[..., None]) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.window, "write", write)
            try:
                drained = self.writer.drain.run(self.writer.postgres(), [0])
            except _Stalled:
                return
        if drained.outcomes[0] is not DrainOutcome.EMPTY:
            found = history.select(self.writer.postgres(), self.vault_id, ReadFilter())
            self.finished |= {segment.bounds.first_id for segment in found}


STEPS = ["send", "drain", "stall", "go_on", "leave", "come_back", "wipe", "save", "restore"]


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(STEPS), max_size=40))
def test_any_steps_keep_the_coverage_correct(
    writer: Writer, sender: Sender, steps: list[str]
) -> None:
    writer.hot_redis.flushall()
    story = Story(writer, sender)
    for step in ("send", "drain", *steps, "come_back", "send", "drain"):
        getattr(story, step)()
        story.check()
    # No entry is lost or left in the backlog.
    assert story.sender.waiting() == 0
    story.sender.numbers = {story.password: story.sender.numbers[story.password]}
    story.sender.check_all()


@pytest.mark.parametrize(
    "steps",
    [
        "send leave drain come_back",
        "send drain save send drain restore",
        "send stall send leave drain come_back go_on",
        "send leave stall send drain come_back go_on",
        "wipe send drain",
        "send stall send drain wipe go_on",
        "send stall send stall send drain wipe go_on go_on",
    ],
)
def test_known_sequences_of_steps_keep_the_coverage_correct(
    steps: str, writer: Writer, sender: Sender
) -> None:
    writer.hot_redis.flushall()
    story = Story(writer, sender)
    for step in ("send drain " + steps).split():
        getattr(story, step)()
        story.check()


def test_the_window_is_used_again_after_a_wipe(writer: Writer, sender: Sender) -> None:
    story = Story(writer, sender)
    for step in ("send", "drain", "wipe", "send", "drain"):
        getattr(story, step)()
    moment = story.sender.backlog.drain_positions([0]).now
    since = int(cast("bytes", story.hot.hget("iot:hot:cover:0", "since")))
    assert moment - 5000 < since <= moment + 1


def test_the_clock_of_the_separate_redis_is_not_used(writer: Writer, sender: Sender) -> None:
    """Its clock may differ; the clock of the backlog's Redis stamps readings."""
    story = Story(writer, sender)
    story.send()
    with redis_commands(story.hot) as counted:
        story.drain()
    assert counted["zadd"] == 1
    assert counted["time"] == 0
