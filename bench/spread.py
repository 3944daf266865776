"""Values of several rounds."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """One figure, of each round."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """What counts."""
        return statistics.median(self.values)

    def over(self, other: "Spread | float") -> "Spread":
        """The ratio, round by round where both sides have as many."""
        if not isinstance(other, Spread):
            return Spread(tuple(value / other for value in self.values))
        if len(other.values) == len(self.values):
            pairs = zip(self.values, other.values, strict=True)
            return Spread(tuple(ours / theirs for ours, theirs in pairs))
        return self.over(other.median)

    def text(self) -> str:
        """`median (lowest .. highest)`."""
        if len(self.values) == 1:
            return number(self.values[0])
        low, high = min(self.values), max(self.values)
        return f"{number(self.median)} ({number(low)} .. {number(high)})"


def spread(values: Iterable[float]) -> Spread:
    """Of what several rounds gave."""
    return Spread(tuple(values))


def number(value: float) -> str:
    """With as many digits as say something."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
