"""The account compares the sent and acknowledged readings with the stored readings."""

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from system.faults.readings import NUMBERS, interrogator_time, kept_freeform

_EXAMPLES = 5


@dataclass(slots=True)
class Request:
    """A request of a device. Its readings are numbered from `first`, and use the passwords (as
    numbers) in turn. `status` is 0 without a response. Times are from the monotonic clock.
    """

    device: int
    first: int
    count: int
    passwords: tuple[int, ...]
    sent_at: float
    answered_at: float = 0.0
    status: int = 0
    attempts: int = 1

    @property
    def acknowledged(self) -> bool:
        """Whether the service has acknowledged the request."""
        return self.status == 201

    def password(self, number: int) -> int:
        """Return the password of the reading with this number."""
        return self.passwords[number % len(self.passwords)]


class Row(msgspec.Struct, gc=False):
    """A reading of a response."""

    id: int
    relative_timestamp: int
    interrogator_timestamp: int
    freeform: str


@dataclass(slots=True)
class Judgement:
    """The result of the comparison. Every count below `stored` must be 0."""

    sent: int = 0
    acknowledged: int = 0
    stored: int = 0
    lost: int = 0
    doubled: int = 0
    altered: int = 0
    out_of_order: int = 0
    misplaced: int = 0
    """Recently received readings that differ from the stored readings."""
    torn: int = 0
    """Requests without an acknowledgement that are stored in part."""
    examples: list[str] = field(default_factory=list)

    def faults(self) -> dict[str, int]:
        """Return the counts that must be 0."""
        return {
            "lost": self.lost,
            "doubled": self.doubled,
            "altered": self.altered,
            "out of order": self.out_of_order,
            "other than stored among the latest": self.misplaced,
            "requests stored in part": self.torn,
        }

    def show(self, example: str) -> None:
        """Keep an example of a fault, up to a limit."""
        if len(self.examples) < _EXAMPLES:
            self.examples.append(example)


class Account:
    """The comparison of sent and stored readings, made after all devices have stopped."""

    def __init__(
        self, sent: Sequence[Sequence[Request]], held: Sequence[tuple[float, float]] = ()
    ) -> None:
        """Create an account. `sent` has the requests of each device in order. Readings acknowledged
        in one of the time spans `held` may be stored after later readings.
        """
        self._sent = sent
        self._held = held
        self._firsts = [[each.first for each in requests] for requests in sent]
        self._ids = [array("q", bytes(8 * _total(requests))) for requests in sent]
        self.judgement = Judgement(
            sent=sum(map(_total, sent)),
            acknowledged=sum(each.count for of in sent for each in of if each.acknowledged),
        )

    def enter(self, password: int, rows: Sequence[Row]) -> None:
        """Enter all readings of a password, in the order of the response."""
        judgement = self.judgement
        judgement.stored += len(rows)
        before = (-(2**63), 0)
        for row in rows:
            position = (row.interrogator_timestamp, row.id)
            if position <= before:
                judgement.out_of_order += 1
                judgement.show(f"after {before} comes {row}")
            before = position
            device, number = divmod(row.relative_timestamp, NUMBERS)
            if not self._is_whole(password, device, number, row):
                judgement.altered += 1
                judgement.show(f"altered: {row}")
            elif self._ids[device][number]:
                judgement.doubled += 1
                judgement.show(f"doubled: {row}, also with id {self._ids[device][number]}")
            else:
                self._ids[device][number] = row.id

    def check_recent(self, rows: Sequence[Row]) -> None:
        """Compare recently received readings, which may come from the hot window, with the entered
        readings. Each must be there once, with the same id.
        """
        seen: set[int] = set()
        for row in rows:
            device, number = divmod(row.relative_timestamp, NUMBERS)
            if row.id in seen or self._ids[device][number] != row.id:
                self.judgement.misplaced += 1
                entered = self._ids[device][number]
                self.judgement.show(f"received lately: {row}, stored with id {entered}")
            seen.add(row.id)

    def _is_whole(self, password: int, device: int, number: int, row: Row) -> bool:
        if device >= len(self._ids) or number >= len(self._ids[device]):
            return False
        request = self._sent[device][bisect_right(self._firsts[device], number) - 1]
        return (
            request.password(number) == password
            and row.interrogator_timestamp == interrogator_time(number)
            and row.freeform == kept_freeform(device, number)
            and 0 < row.id < 2**53
        )

    def close(self) -> Judgement:
        """Return the judgement, after all readings were entered."""
        for requests, ids in zip(self._sent, self._ids, strict=True):
            latest: dict[int, int] = {}
            for request in requests:
                self._close_request(request, ids[request.first : request.first + request.count])
                self._check_order(request, ids, latest)
        return self.judgement

    def _close_request(self, request: Request, ids: "array[int]") -> None:
        missing = ids.count(0)
        if not missing:
            return
        if request.acknowledged:
            self.judgement.lost += missing
            self.judgement.show(f"lost: {missing} of {request}")
        elif missing < request.count:
            self.judgement.torn += 1
            self.judgement.show(f"stored in part, {missing} missing: {request}")

    def _check_order(self, request: Request, ids: "array[int]", latest: dict[int, int]) -> None:
        """Check that the ids of a password grow within and between acknowledged requests."""
        own: dict[int, int] = {}
        for number in range(request.first, request.first + request.count):
            password = request.password(number)
            low = max(own.get(password, 0), latest.get(password, 0))
            if ids[number] and ids[number] <= low:
                self.judgement.out_of_order += 1
                self.judgement.show(f"reading {number} has id {ids[number]}, <= {low}: {request}")
            own[password] = max(low, ids[number])
        if request.acknowledged and not self._may_be_held(request):
            latest.update(own)

    def _may_be_held(self, request: Request) -> bool:
        return any(begin <= request.answered_at <= end for begin, end in self._held)


def _total(requests: Sequence[Request]) -> int:
    return requests[-1].first + requests[-1].count if requests else 0
