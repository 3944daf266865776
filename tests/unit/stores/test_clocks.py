"""The clock that differs from the two others is reported as wrong."""

import pytest

from iot_stores.clocks import ClockSkew, describe

DAYS = 61 * 86_400.0
THIS, REDIS, POSTGRES = "this machine's clock is ", "Redis's clock is ", "Postgres's clock is "


@pytest.mark.parametrize(
    ("redis", "postgres", "begins"),
    [
        (0.0, 0.0, None),
        (300.0, -300.0, None),
        (-DAYS, -DAYS, THIS + "61 days, 0:00:00 ahead of the clocks of Redis and Postgres"),
        (DAYS, DAYS + 299, THIS + "61 days, 0:00:00 behind the clocks of Redis and Postgres"),
        (DAYS, 0.0, REDIS + "61 days, 0:00:00 ahead of the clocks of this machine and Postgres"),
        (-301.0, 20.0, REDIS + "0:05:01 behind the clocks of this machine and Postgres"),
        (0.0, DAYS, POSTGRES + "61 days, 0:00:00 ahead of the clocks of this machine and Redis"),
        (DAYS, None, REDIS + "61 days, 0:00:00 ahead of this machine's clock"),
        (-DAYS, DAYS, "the clocks of this machine, Redis and Postgres all differ"),
        (0.0, None, None),
    ],
)
def test_the_wrong_clock_is_named(redis: float, postgres: float | None, begins: str | None) -> None:
    skew = ClockSkew(redis, postgres)
    fault = skew.fault(300)
    assert fault is None if begins is None else (fault or "").startswith(begins)
    assert skew.exceeds(300) is (abs(redis) > 300)


@pytest.mark.parametrize(
    ("ahead", "text"),
    [(59.6, "0:01:00 ahead of"), (-86_400.2, "1 day, 0:00:00 behind")],
)
def test_differences_are_described_in_words(ahead: float, text: str) -> None:
    assert describe(ahead) == text
