"""Lines show the elapsed time, and a closed terminal is not an error."""

import os
import subprocess
import sys
import time

import pytest

from iot_tools.local.terminal import Terminal

CLOSED = """
import sys, time
from iot_tools.local.terminal import Terminal
terminal = Terminal(time.time())
input()
terminal.say("nobody hears this")
terminal.say("nor this")
print("alive", file=sys.stderr)
"""


def test_lines_show_the_seconds_since_the_start(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal(time.time() - 12).say("up")
    assert capsys.readouterr().out in {"[ 12.0 s] up\n", "[ 12.1 s] up\n"}


def test_a_closed_terminal_is_no_error() -> None:
    reading, writing = os.pipe()
    command = [sys.executable, "-c", CLOSED]
    os.close(reading)
    done = subprocess.run(
        command, input="\n", stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "alive\n")
