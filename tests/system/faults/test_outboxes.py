"""Outboxes lose and double nothing, whatever fails, and are never stuck."""

from system.faults.separate_run import check_run

_SECONDS = 200
"""Timeout. The run takes half a minute, and longer on a busy machine."""


def test_outboxes_that_filled_their_disk_can_be_emptied_and_filled_again() -> None:
    check_run("system.faults.shared_disk_run", seconds=_SECONDS)


def test_outboxes_lose_and_double_nothing() -> None:
    check_run("system.faults.outbox_run", seconds=_SECONDS)
