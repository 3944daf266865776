"""When to send a request again."""

import random
from dataclasses import dataclass

_TEMPORARY = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Exponential backoff with full jitter, so that many clients do not retry at the same moment.

    `RetryPolicy(max_attempts=1)` turns retries off.
    """

    max_attempts: int = 5
    base_seconds: float = 0.2
    """Maximum pause after the first attempt. It doubles with every further attempt."""
    max_pause_seconds: float = 10.0
    """Maximum of the random part of a pause. `Retry-After` comes on top."""
    max_seconds: float = 60.0
    """No attempt starts more than this many seconds after the first attempt."""
    statuses: frozenset[int] = _TEMPORARY
    """Statuses of responses after which a request is sent again."""

    def pause(self, attempt: int, elapsed: float, retry_after: float | None) -> float | None:
        """Return the seconds to wait after an attempt, at least `retry_after`; None to give up.

        `attempt`: number of the attempt, from 1. `elapsed`: seconds since the first attempt began.
        """
        if attempt >= self.max_attempts:
            return None
        pause = (retry_after or 0.0) + self.jitter(attempt)
        return pause if elapsed + pause <= self.max_seconds else None

    def jitter(self, attempt: int) -> float:
        """Return the random part of the pause after an attempt."""
        longest = doubled(self.base_seconds, attempt, self.max_pause_seconds)
        return random.uniform(0, longest)  # noqa: S311 -- spreads load, protects nothing


def doubled(first: float, attempt: int, maximum: float) -> float:
    """Return a pause that is `first` after attempt 1 and doubles with every further attempt."""
    return min(maximum, first * 2.0 ** min(attempt - 1, 60))
