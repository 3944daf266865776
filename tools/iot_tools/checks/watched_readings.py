"""The readings that the canary must find again, and what happened to them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Watched:
    sent_at: float
    acknowledged_at: float
    missing_since: float | None = None
    present: bool = False
    """Whether the last check found the reading."""
    found: bool = False
    """Whether the reading was ever found. Numbers from `resume` count as found."""
    lost: bool = False
    doubled: bool = False


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The findings of one check. Later checks do not report the same findings again."""

    lost: list[int] = field(default_factory=list)
    doubled: list[int] = field(default_factory=list)
    late: list[int] = field(default_factory=list)
    """Numbers that an earlier check reported as lost, and that this check found."""
    round_trips: list[float] = field(default_factory=list)
    """Seconds from sending to finding, for each reading that was found for the first time."""


class WatchedReadings:
    """The numbers of at most `max_count` readings, each watched for `keep` seconds.

    A number is lost when checks have not found it for `grace` seconds. A failed check restarts this
    period, because it does not tell whether the reading is there. A number that is missing after
    `keep` seconds stays watched until it is found or lost.
    """

    def __init__(self, *, grace: float, keep: float, max_count: int) -> None:
        self._grace = grace
        self._keep = keep
        self._max_count = max_count
        self._watched: dict[int, _Watched] = {}

    def __len__(self) -> int:
        return len(self._watched)

    @property
    def bounds(self) -> tuple[int, int] | None:
        """The smallest and the largest watched number; None if no number is watched."""
        if not self._watched:
            return None
        return min(self._watched), max(self._watched)

    @property
    def counted(self) -> list[int]:
        """The watched numbers that were reported as lost or doubled.

        The canary puts these numbers into each reading that it sends. After a restart, the canary
        reads the numbers from these readings, so that it does not report them again.
        """
        return [
            number for number, watched in self._watched.items() if watched.lost or watched.doubled
        ]

    def resume(self, found: Iterable[int], counted: Iterable[int], now: float) -> None:
        """Continue the work of an earlier process.

        The service has stored the readings with the numbers `found`: watch all numbers from the
        smallest to the largest of them. The earlier process reported the numbers `counted` as lost
        or doubled: do not report them again.
        """
        numbers, known = set(found), set(counted)
        for number in range(min(numbers), max(numbers) + 1):
            self._watched[number] = _Watched(
                now, now, found=True, lost=number in known, doubled=number in known
            )
        self._forget_old(now)

    def acknowledge(self, number: int, *, sent_at: float, now: float) -> None:
        """Watch the number of a reading that was just acknowledged. It was sent at `sent_at`."""
        self._watched[number] = _Watched(sent_at, now)
        self._forget_old(now)

    def mark_found(self, number: int, now: float) -> float | None:
        """Mark a number as found.

        Return its round trip in seconds. Return None if the number was found before, or is not
        watched.
        """
        watched = self._watched.get(number)
        if watched is None or watched.found:
            return None
        watched.found = True
        return now - watched.sent_at

    def check(self, counts: Mapping[int, int], now: float) -> CheckResult:
        """Check all watched numbers. `counts` says how often a read has returned each number."""
        result = CheckResult()
        for number, watched in self._watched.items():
            count = counts.get(number, 0)
            watched.present = count > 0
            if not count:
                self._mark_missing(number, watched, result, now)
                continue
            watched.missing_since = None
            if watched.lost and not watched.found:
                result.late.append(number)
            round_trip = self.mark_found(number, now)
            if round_trip is not None:
                result.round_trips.append(round_trip)
            if count > 1 and not watched.doubled:
                watched.doubled = True
                result.doubled.append(number)
        self._forget_old(now)
        return result

    def mark_check_failed(self) -> None:
        """Restart the `grace` period of all missing numbers."""
        for watched in self._watched.values():
            watched.missing_since = None

    def _mark_missing(
        self, number: int, watched: _Watched, result: CheckResult, now: float
    ) -> None:
        if watched.missing_since is None:
            watched.missing_since = now
        if not watched.lost and now - watched.missing_since >= self._grace:
            watched.lost = True
            result.lost.append(number)

    def _forget_old(self, now: float) -> None:
        old = [
            number
            for number, watched in self._watched.items()
            # A missing number is kept until it is either found or lost.
            if now - watched.acknowledged_at > self._keep and (watched.present or watched.lost)
        ]
        for number in old:
            del self._watched[number]
        while len(self._watched) > self._max_count:
            del self._watched[next(iter(self._watched))]
