"""One process of a pod has the turn."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from iot_api.limits import pod_turn
from iot_api.limits.pod_turn import PodTurn, share_turns

HOLDER = """
import sys
from pathlib import Path
from iot_api.limits.pod_turn import PodTurn, share_turns
share_turns(Path(sys.argv[1]))
turn = PodTurn("t")
with turn.hold(10) as held:
    turn.time = 42.0
    print(held, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder that the processes share."""
    monkeypatch.setattr(pod_turn, "_folders", [])
    share_turns(tmp_path)


def test_one_process_has_the_turn_until_it_is_killed(tmp_path: Path) -> None:
    turn = PodTurn("t")
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"True\n"
        began = time.monotonic()
        with turn.hold(0.1) as held:
            assert not held
        assert time.monotonic() - began >= 0.1
        holder.kill()
        with turn.hold(10) as held:
            assert held
            assert turn.time == 42.0
    with PodTurn("t").hold(0) as held:
        assert held


def test_turns_of_other_names_are_free() -> None:
    with PodTurn("t").hold(0) as one, PodTurn("u").hold(0) as other:
        assert (one, other) == (True, True)


def test_a_damaged_time_counts_as_none(tmp_path: Path) -> None:
    turn = PodTurn("t")
    assert turn.time == 0.0
    (tmp_path / "t").write_bytes(b"abc")
    assert turn.time == 0.0


def test_a_process_without_a_folder_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pod_turn, "_folders", [])
    turn = PodTurn("t")
    with turn.hold(0) as held:
        assert held
        turn.time = 7.0
    assert turn.time == 7.0
