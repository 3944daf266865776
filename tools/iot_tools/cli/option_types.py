"""Types of command-line options, shared by the subcommands."""

import argparse
import math
import re

Subparsers = argparse._SubParsersAction  # noqa: SLF001 -- argparse has no public name for it

_CALL = re.compile(r"/api/(iot|rssi)([/?].*)?$")


def seconds(text: str) -> float:
    """Parse a duration from 0 to 86400 seconds."""
    return _duration(text, minimum=0)


def interval(text: str) -> float:
    """Parse a duration from 0.1 to 86400 seconds."""
    return _duration(text, minimum=0.1)


def _duration(text: str, *, minimum: float) -> float:
    value = _number(text)
    if not minimum <= value <= 86_400:
        raise argparse.ArgumentTypeError(f"must be {minimum:g} to 86400 seconds, not {text!r}")
    return value


def rate(text: str) -> float:
    """Parse a rate above 0, at most 100000 a second."""
    value = _number(text)
    if not 0 < value <= 100_000:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 100000, not {text!r}")
    return value


def fraction(text: str) -> float:
    """Parse a number from 0 to 1."""
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1, not {text!r}")
    return value


def positive_integer(text: str) -> int:
    """Parse a positive integer."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, not {text!r}")
    return int(text)


def moment(text: str) -> str:
    """Check that a text is `now`, RFC 3339 or Unix microseconds, and return it."""
    from iot_models.times import parse_time_or_date  # noqa: PLC0415 -- only where needed

    try:
        if text != "now":
            parse_time_or_date(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"must be the word now, RFC 3339 or Unix microseconds, not {text!r}: {error}"
        ) from None
    return text


def service_url(text: str) -> str:
    """Return the URL of a service. Refuse the URL of a call, such as `http://host:5000/api/iot`."""
    if call := _CALL.search(text):
        raise argparse.ArgumentTypeError(f"leave out {call[0]}: the command adds it")
    return text


def port(text: str) -> int:
    """Parse a TCP port; 0 is allowed."""
    if not text.isdigit() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"must be a port from 0 to 65535, not {text!r}")
    return int(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
