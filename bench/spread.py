"""The values of several rounds."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """The values of one figure, one per round."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median of the rounds, which is compared with limits."""
        return statistics.median(self.values)

    def over(self, other: "Spread | float") -> "Spread":
        """Return the values divided by `other`.

        If both have the same number of rounds, the ratios are those of each round. Otherwise, each
        value is divided by the median of `other`.
        """
        if not isinstance(other, Spread):
            return Spread(tuple(value / other for value in self.values))
        if len(other.values) == len(self.values):
            pairs = zip(self.values, other.values, strict=True)
            return Spread(tuple(ours / theirs for ours, theirs in pairs))
        return self.over(other.median)

    def text(self) -> str:
        """Return `median (lowest .. highest)`, or the only value."""
        if len(self.values) == 1:
            return number(self.values[0])
        low, high = min(self.values), max(self.values)
        return f"{number(self.median)} ({number(low)} .. {number(high)})"


def spread(values: Iterable[float]) -> Spread:
    """Return the spread of values."""
    return Spread(tuple(values))


def number(value: float) -> str:
    """Return a number as text: with two decimals below 10, one below 100, and none from 100 on."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
