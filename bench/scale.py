"""The sizes and durations of a run."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """The sizes and durations of all measures."""

    name: str
    rounds: int
    lanes: int
    """Connections that send batches at the same time, each with its own vault."""
    batches: int
    """Batches per connection and round."""
    batch: int
    """Readings per batch."""
    single_seconds: int
    """Seconds per side and round during which wrk sends single readings."""
    read: int
    """Readings in the vault that is read back."""
    streamed: int
    """Readings in the vault that is read while memory is sampled."""
    fresh_seconds: float
    """Seconds during which freshness is measured at half of full load."""
    fresh_singles: int
    """Requests per connection, with one reading each, that are sent to find the full load."""
    flood_seconds: float
    """Seconds for which a device sends alone, and then beside a flood."""
    constants: float
    """Factor on the loads that give the constants of the capacity model; 1 in a full run."""
    profile_seconds: int
    starts: int
    """Number of starts of `make run` with an existing environment."""
    fresh_install: bool
    """Whether `make run` is also timed without a virtual environment."""

    @property
    def readings(self) -> int:
        """Readings that a side gets as batches in one round."""
        return self.lanes * self.batches * self.batch


FULL = Scale(
    name="full", rounds=5, lanes=4, batches=75, batch=1000, single_seconds=3,
    read=500_000, streamed=5_000_000, fresh_seconds=10, fresh_singles=500,
    flood_seconds=3, constants=1.0,
    profile_seconds=5, starts=3, fresh_install=True,
)  # fmt: skip

QUICK = Scale(
    name="quick", rounds=2, lanes=4, batches=25, batch=1000, single_seconds=1,
    read=100_000, streamed=500_000, fresh_seconds=4, fresh_singles=250,
    flood_seconds=2, constants=0.2,
    profile_seconds=2, starts=1, fresh_install=False,
)  # fmt: skip
