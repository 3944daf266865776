"""Which numbers the canary has to find again, and what became of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Expected:
    sent_at: float
    acknowledged_at: float
    missing_since: float | None = None
    present: bool = False
    """It was there at the last look."""
    arrived: bool = False
    lost: bool = False
    doubled: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a look has found out, each number of it for the first time."""

    lost: list[int] = field(default_factory=list)
    doubled: list[int] = field(default_factory=list)
    late: list[int] = field(default_factory=list)
    """Counted as lost, and there after all."""
    round_trips: list[float] = field(default_factory=list)


class Ledger:
    """Remembers a number for `keep` seconds, and `most` numbers at the most.

    A number is lost when each look for `grace` seconds on end has missed it. A look that failed
    begins that time anew: while nothing can be read, nothing is known.
    """

    def __init__(self, *, grace: float, keep: float, most: int) -> None:
        self._grace = grace
        self._keep = keep
        self._most = most
        self._expected: dict[int, _Expected] = {}

    def __len__(self) -> int:
        return len(self._expected)

    @property
    def bounds(self) -> tuple[int, int] | None:
        """The least and the greatest number looked for."""
        if not self._expected:
            return None
        return min(self._expected), max(self._expected)

    @property
    def counted(self) -> list[int]:
        """The numbers that were counted as lost or doubled; to be told to who comes after."""
        return [n for n, each in self._expected.items() if each.lost or each.doubled]

    def resume(self, found: Iterable[int], counted: Iterable[int], now: float) -> None:
        """Go on from what another process has left: no number among those found may be missing.

        What that one had `counted` is not counted again.
        """
        numbers, known = set(found), set(counted)
        for number in range(min(numbers), max(numbers) + 1):
            self._expected[number] = _Expected(
                now, now, arrived=True, lost=number in known, doubled=number in known
            )
        self._forget(now)

    def acknowledge(self, number: int, *, sent_at: float, now: float) -> None:
        """From now on the number must be found."""
        self._expected[number] = _Expected(sent_at, now)
        self._forget(now)

    def arrive(self, number: int, now: float) -> float | None:
        """Note that a number was found; the seconds since it was sent, if it is the first time."""
        each = self._expected.get(number)
        if each is None or each.arrived:
            return None
        each.arrived = True
        return now - each.sent_at

    def judge(self, times: Mapping[int, int], now: float) -> Verdict:
        """Compare with how often each number was found."""
        verdict = Verdict()
        for number, each in self._expected.items():
            count = times.get(number, 0)
            each.present = count > 0
            if not count:
                self._miss(number, each, verdict, now)
                continue
            each.missing_since = None
            if each.lost and not each.arrived:
                verdict.late.append(number)
            took = self.arrive(number, now)
            if took is not None:
                verdict.round_trips.append(took)
            if count > 1 and not each.doubled:
                each.doubled = True
                verdict.doubled.append(number)
        self._forget(now)
        return verdict

    def fail(self) -> None:
        """Note that a look has failed."""
        for each in self._expected.values():
            each.missing_since = None

    def _miss(self, number: int, each: _Expected, verdict: Verdict, now: float) -> None:
        if each.missing_since is None:
            each.missing_since = now
        if not each.lost and now - each.missing_since >= self._grace:
            each.lost = True
            verdict.lost.append(number)

    def _forget(self, now: float) -> None:
        old = [
            number
            for number, each in self._expected.items()
            if now - each.acknowledged_at > self._keep and (each.present or each.lost)
        ]
        for number in old:
            del self._expected[number]
        while len(self._expected) > self._most:
            del self._expected[next(iter(self._expected))]
