"""What was measured, and whether what was asked of it holds."""

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from .spread import Spread, number


class Kind(StrEnum):
    """What is asked: to be held always, or to be come near to."""

    FLOOR = "floor"
    AIM = "aim"


@dataclass(frozen=True, slots=True)
class Bar:
    """One thing that is asked of a figure."""

    kind: Kind
    text: str
    ratio: Spread | None
    """The figure over what it is compared with; None when that was not measured."""
    bound: float
    """What the ratio must reach, or stay under."""
    holds: Callable[[float, float], bool]

    @property
    def held(self) -> bool | None:
        """By the median; None when it can't be told."""
        return None if self.ratio is None else self.holds(self.ratio.median, self.bound)

    @property
    def verdict(self) -> str:
        """For people."""
        return {True: "held", False: "NOT HELD", None: "not measured"}[self.held]

    @property
    def reached(self) -> float | None:
        """How much of what is asked is reached: 1 and more is held."""
        if self.ratio is None:
            return None
        share = self.ratio.median / self.bound
        return share if self.holds is operator.ge else 1 / max(share, 1e-9)


@dataclass(slots=True)
class Row:
    """A figure of performance.md."""

    figure: str
    unit: str
    ours: Spread | None
    bars: list[Bar] = field(default_factory=list)
    remark: str = ""

    def at_least(
        self, kind: Kind, factor: float, of: str, reference: Spread | float | None
    ) -> "Row":
        """Ask for `factor` times the reference or more."""
        return self._ask(kind, f"{factor:g} x {of}", factor, reference, operator.ge)

    def at_most(
        self, kind: Kind, factor: float, of: str, reference: Spread | float | None
    ) -> "Row":
        """Ask for `factor` times the reference or less."""
        return self._ask(kind, f"at most {factor:g} x {of}", factor, reference, operator.le)

    def below(self, kind: Kind, bound: float, unit: str) -> "Row":
        """Ask for at most so much."""
        return self._ask(kind, f"at most {number(bound)} {unit}", bound, 1.0, operator.le)

    def _ask(
        self,
        kind: Kind,
        text: str,
        bound: float,
        reference: Spread | float | None,
        holds: Callable[[float, float], bool],
    ) -> "Row":
        ratio = None if self.ours is None or reference is None else self.ours.over(reference)
        self.bars.append(Bar(kind, text, ratio, bound, holds))
        return self


@dataclass(frozen=True, slots=True)
class Detail:
    """Something else that was measured."""

    section: str
    name: str
    value: str


@dataclass(slots=True)
class Results:
    """All of one run."""

    rows: list[Row] = field(default_factory=list)
    details: list[Detail] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Sentences that a reader of the table must know."""
    failures: list[str] = field(default_factory=list)
    """Parts that could not be measured."""
    profiles: dict[str, str] = field(default_factory=dict)
    speeds: dict[str, dict[str, Spread]] = field(default_factory=dict)
    """By figure and side, for the plot."""

    def detail(self, section: str, name: str, value: Spread | str, unit: str = "") -> None:
        """Keep something that is worth telling."""
        text = value if isinstance(value, str) else f"{value.text()} {unit}".rstrip()
        self.details.append(Detail(section, name, text))

    def speed(self, figure: str, side: str) -> Spread | None:
        """What a side reached, if it was measured."""
        return self.speeds.get(figure, {}).get(side)

    @property
    def missed_floors(self) -> list[str]:
        """Figures of which a floor does not hold."""
        return [
            f"{row.figure}: {bar.text}"
            for row in self.rows
            for bar in row.bars
            if bar.kind is Kind.FLOOR and bar.held is False
        ]
