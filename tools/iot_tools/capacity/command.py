"""`iot-sensor capacity`: print what a fleet of devices needs."""

import argparse
from collections.abc import Sequence

from iot_tools.cli.tables import print_table

from .costs import described
from .model import Capacity, Demand, Limit, Need

_UNITS = ("", "k", "M", "G", "T", "P", "E")
_MIN_LIMITS_SHOWN = 4
"""Smallest number of limits in the output."""


def add_capacity(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `capacity`."""
    parser.add_argument(
        "--devices", type=_count, default=10_000, help="number of devices (default 10,000)"
    )
    parser.add_argument("--readings-per-second", type=_rate, default=1.0, metavar="RATE",
                        dest="rate", help="readings/s of each device (default 1)")  # fmt: skip
    parser.add_argument("--batch", type=_count, default=1, help="readings per request (default 1)")
    parser.add_argument("--devices-per-password", type=_count, default=1, metavar="N",
                        dest="devices_per_vault",
                        help="number of devices that share a password (default 1)")  # fmt: skip
    parser.add_argument(
        "--retention-days",
        type=_count,
        default=365,
        help="age in days at which readings are deleted (default 365)",
    )
    parser.add_argument("--outage-seconds", type=_count, default=1800, metavar="SECONDS",
                        help="longest outage of Postgres (default 1800)")  # fmt: skip
    parser.add_argument("--hot-window-seconds", type=_count, default=300, metavar="SECONDS",
                        help="IOT_HOT_WINDOW_SECONDS (default 300)")  # fmt: skip
    parser.add_argument("--vault-cache-seconds", type=_count, default=3600, metavar="SECONDS",
                        help="IOT_VAULT_CACHE_SECONDS (default 3600)")  # fmt: skip
    parser.add_argument("--vault-cache-size", type=_count, default=50_000, metavar="N",
                        help="IOT_VAULT_CACHE_SIZE (default 50,000)")  # fmt: skip
    parser.add_argument("--idempotent", action="store_true",
                        help="requests have an Idempotency-Key")  # fmt: skip
    parser.add_argument("--sticky", action="store_true",
                        help="all requests of a device reach the same API process")  # fmt: skip
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")
    parser.add_argument("--costs", action="store_true", help="print the constants of the model")
    parser.set_defaults(command=_run)


def _run(parsed: argparse.Namespace) -> int:
    if parsed.costs:
        constants_head = ("cost", "value", "unit", "how it was measured")
        print_table(constants_head, costs_rows(), markdown=parsed.markdown)
        return 0
    given = {name: getattr(parsed, name) for name in Demand.__dataclass_fields__}
    capacity = Capacity(Demand(**given))
    print_table(("part", "what", "needed"), needs_rows(capacity), markdown=parsed.markdown)
    print()
    head = ("limit of one release", "used", "remedy")
    print_table(head, limits_rows(capacity), markdown=parsed.markdown)
    if capacity.releases > 1:
        print(
            f"\nOne release is not enough: divide the devices among {capacity.releases} releases."
        )
    return 0


def needs_rows(capacity: Capacity) -> list[Sequence[str]]:
    """Return a row for each need: its part (such as `Redis` or `network`), name and figure."""
    return [(need.part, need.name, amount(need)) for need in capacity.needs()]


def limits_rows(capacity: Capacity) -> list[Sequence[str]]:
    """Return rows of the limits with the greatest use: name, used share, remedy.

    At least four limits are returned, and every exceeded limit.
    """
    limits = capacity.limits()
    shown = max(_MIN_LIMITS_SHOWN, sum(limit.used > 1 for limit in limits))
    return [(limit.name, share(limit), limit.remedy) for limit in limits[:shown]]


def costs_rows() -> list[Sequence[str]]:
    """Return a row for each constant: meaning, figure, unit, how it was measured."""
    return [(meaning, f"{value:,g}", unit, how) for _, value, unit, meaning, how in described()]


def amount(need: Need) -> str:
    """Return the figure of a need as text, rounded and with a suffix, such as `12.3k`."""
    if need.unit == "" or need.value < 1000:
        digits = 0 if need.unit == "" or need.value >= 100 else 1 if need.value >= 10 else 2
        return f"{need.value:,.{digits}f} {need.unit}".rstrip()
    value, step = need.value, 0
    while value >= 999.5 and step < len(_UNITS) - 1:
        value, step = value / 1000, step + 1
    text = f"{value:.0f}" if value >= 100 else f"{value:.1f}"
    if need.unit.startswith("bytes"):
        return f"{text} {_UNITS[step]}{need.unit.replace('bytes', 'B')}"
    return f"{text}{_UNITS[step]} {need.unit}".replace(" /", "/")


def share(limit: Limit) -> str:
    """Return the used share of a limit as text, such as `85%` or, from 1000% on, `12 times`."""
    return f"{limit.used:.0%}" if limit.used < 10 else f"{limit.used:,.0f} times"


def _count(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}") from None
    if not 1 <= value <= 1e15:
        raise argparse.ArgumentTypeError(f"must be from 1 to 1e15, not {text}")
    return value


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, not {text!r}") from None
    if not 0 < value <= 1e15:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1e15, not {text}")
    return value
