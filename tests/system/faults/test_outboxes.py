"""Devices with outboxes lose and double nothing, whatever fails."""

from system.faults.separate_run import check_run

_SECONDS = 200
"""Timeout. The run takes half a minute, and longer on a busy machine."""


def test_outboxes_lose_and_double_nothing() -> None:
    check_run("system.faults.outbox_run", seconds=_SECONDS)
