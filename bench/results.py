"""The figures of a run, and whether they keep their limits."""

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from .spread import Spread, number


class Kind(StrEnum):
    """The kind of a limit: a floor must be held, an aim should be held."""

    FLOOR = "floor"
    AIM = "aim"


@dataclass(frozen=True, slots=True)
class Bar:
    """A limit of a figure."""

    kind: Kind
    text: str
    ratio: Spread | None
    """The figure divided by its reference, or by 1 for an absolute limit. None: not measured."""
    bound: float
    """The lowest ratio that keeps the limit; for an upper limit, the highest."""
    holds: Callable[[float, float], bool]

    @property
    def held(self) -> bool | None:
        """Whether the median of `ratio` keeps the limit; None if `ratio` was not measured."""
        return None if self.ratio is None else self.holds(self.ratio.median, self.bound)

    @property
    def verdict(self) -> str:
        """`held` as text."""
        return {True: "held", False: "NOT HELD", None: "not measured"}[self.held]

    @property
    def reached(self) -> float | None:
        """The ratio divided by its limit, or the inverse for an upper limit.

        At 1 or more, the limit is held.
        """
        if self.ratio is None:
            return None
        share = self.ratio.median / self.bound
        return share if self.holds is operator.ge else 1 / max(share, 1e-9)


@dataclass(slots=True)
class Row:
    """A figure with its limits."""

    figure: str
    unit: str
    ours: Spread | None
    bars: list[Bar] = field(default_factory=list)
    remark: str = ""

    def at_least(
        self, kind: Kind, factor: float, of: str, reference: Spread | float | None
    ) -> "Row":
        """Add the limit: at least `factor` times `reference`, which the results call `of`."""
        return self._add_limit(kind, f"{factor:g} x {of}", factor, reference, operator.ge)

    def at_most(
        self, kind: Kind, factor: float, of: str, reference: Spread | float | None
    ) -> "Row":
        """Add the limit: at most `factor` times `reference`, which the results call `of`."""
        return self._add_limit(kind, f"at most {factor:g} x {of}", factor, reference, operator.le)

    def below(self, kind: Kind, bound: float, unit: str) -> "Row":
        """Add an absolute limit: at most `bound`."""
        return self._add_limit(kind, f"at most {number(bound)} {unit}", bound, 1.0, operator.le)

    def _add_limit(
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
    """A measured value without a limit."""

    section: str
    name: str
    value: str


@dataclass(slots=True)
class Results:
    """The results of one run."""

    rows: list[Row] = field(default_factory=list)
    details: list[Detail] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Remarks on the run, to be printed with the results."""
    failures: list[str] = field(default_factory=list)
    """Measures and peers that failed, with their errors."""
    profiles: dict[str, str] = field(default_factory=dict)
    speeds: dict[str, dict[str, Spread]] = field(default_factory=dict)
    """The values of all sides: by name of the figure, then by name of the side."""

    def detail(self, section: str, name: str, value: Spread | str, unit: str = "") -> None:
        """Add a detail."""
        text = value if isinstance(value, str) else f"{value.text()} {unit}".rstrip()
        self.details.append(Detail(section, name, text))

    def speed(self, figure: str, side: str) -> Spread | None:
        """Return the value of a figure for a side; None if it was not measured."""
        return self.speeds.get(figure, {}).get(side)

    @property
    def missed_floors(self) -> list[str]:
        """The floors that are not held, as text."""
        return [
            f"{row.figure}: {bar.text}"
            for row in self.rows
            for bar in row.bars
            if bar.kind is Kind.FLOOR and bar.held is False
        ]
