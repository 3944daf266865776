"""The recovery time starts at the end of a fault, and excludes the time of other faults."""

from math import inf

import pytest

from system.faults.fault import ACKNOWLEDGE, STORE
from system.faults.kinds import KINDS
from system.faults.recovery import LIMIT_SECONDS, Done, Recovery, Seen, recoveries
from system.faults.watch import Fronts

REDIS = next(kind for kind in KINDS if kind.stops == {ACKNOWLEDGE, STORE})
POSTGRES = next(kind for kind in KINDS if kind.stops == {STORE})
NOTHING: Fronts = (None, None)


def _recovery(seen: Seen, *others: Done) -> Recovery:
    """Return the recovery after a fault that ended at 10."""
    return recoveries([Done(0, POSTGRES, 5.0, 10.0), *others], seen)[0]


def _seen(acknowledged: float = 10.5, committed: float = 11.0, stored: float = 12.0) -> Seen:
    """Return events in which the first shard's entry a waits from 9 to `stored`."""
    fronts = [(9.0, (b"a", None)), (10.0, (b"a", b"x")), (11.0, (b"a", None)), (stored, NOTHING)]
    return Seen([1.0, 9.9, acknowledged], [2.0, committed], fronts)


def test_recovery_times_of_a_single_fault() -> None:
    found = _recovery(_seen())
    assert (found.acknowledged, found.committed, found.every_shard) == (0.5, 1.0, 2.0)
    assert found.longest == 2.0
    assert found.in_time


@pytest.mark.parametrize("seen", [_seen(acknowledged=25.0), _seen(committed=25), _seen(stored=25)])
def test_a_late_recovery_is_not_in_time(seen: Seen) -> None:
    assert not _recovery(seen).in_time
    assert not _recovery(seen, Done(1, REDIS, 10.0, 14.0)).in_time
    assert _recovery(seen, Done(1, REDIS, 10.0, 16.0)).in_time
    assert _recovery(seen, Done(1, REDIS, 10.0, 16.0)).longest == 15.0


def test_overlapping_faults_are_excluded_once() -> None:
    others = [Done(1, REDIS, 9.0, 13.0), Done(2, REDIS, 12.0, 14.0), Done(3, REDIS, 30.0, 90.0)]
    assert _recovery(_seen(acknowledged=25.0), *others).acknowledged == 25.0 - 14.0


def test_a_fault_that_stops_other_work_is_not_excluded() -> None:
    found = _recovery(_seen(acknowledged=25.0), Done(1, POSTGRES, 10.0, 20.0))
    assert found.acknowledged == 15.0 > LIMIT_SECONDS


def test_a_missing_recovery_is_infinite() -> None:
    nothing = Seen([9.0], [9.0], [(9.0, NOTHING), (10.0, (b"a", None)), (11.0, (b"a", b"b"))])
    found = _recovery(nothing, Done(1, REDIS, 10.0, 99.0))
    assert (found.acknowledged, found.committed, found.every_shard) == (inf, inf, inf)
    assert not found.in_time
