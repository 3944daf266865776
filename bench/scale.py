"""How much of everything is sent and for how long."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """The size of a run."""

    name: str
    rounds: int
    lanes: int
    """Connections, each with a vault of its own, that send batches at a time."""
    batches: int
    """Batches a connection sends in a round."""
    batch: int
    """Readings a batch."""
    single_seconds: int
    """How long wrk sends single readings to a side in a round."""
    read: int
    """Readings of the vault that is read back."""
    streamed: int
    """Readings of the vault that is read as memory is watched."""
    rows: int
    """Rows of the baseline that encrypts each reading."""
    fresh_seconds: float
    """How long readings are sent and awaited at half load."""
    fresh_singles: int
    """Requests a connection sends to find out full load with one reading each."""
    profile_seconds: int
    starts: int
    """How often the service is started from nothing."""
    fresh_install: bool
    """Whether `make run` is also timed without a virtual environment."""

    @property
    def readings(self) -> int:
        """Readings a side gets in a round."""
        return self.lanes * self.batches * self.batch


FULL = Scale(
    name="full", rounds=5, lanes=4, batches=75, batch=1000, single_seconds=3,
    read=500_000, streamed=5_000_000, rows=100_000, fresh_seconds=10, fresh_singles=500,
    profile_seconds=5, starts=3, fresh_install=True,
)  # fmt: skip

QUICK = Scale(
    name="quick", rounds=2, lanes=4, batches=25, batch=1000, single_seconds=1,
    read=100_000, streamed=500_000, rows=20_000, fresh_seconds=4, fresh_singles=250,
    profile_seconds=2, starts=1, fresh_install=False,
)  # fmt: skip
