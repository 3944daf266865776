"""The arguments of `iot-sensor simulate` and `iot-sensor send`."""

import argparse
import io
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from .option_types import fraction, interval, moment, positive_integer, rate, seconds
from .password_option import add_password, password_of
from .service_option import add_service, checked_url, service_client
from .tls_options import tls_of
from .token_option import token_of

if TYPE_CHECKING:
    from iot_tools.devices.simulation import Show

_ENDLESS = 1_000_000
_KINDS = ("rfid", "accelerometer", "temperature")


def add_simulate(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `simulate`."""
    add_service(parser)
    parser.add_argument(
        "--kind", choices=_KINDS, default="rfid", help="kind of the sensors (default rfid)"
    )
    parser.add_argument(
        "--devices", type=positive_integer, default=1, help="number of devices (default 1)"
    )
    parser.add_argument(
        "--rate",
        type=rate,
        help="readings/s of each device (default: 10 for rfid, 50 for accelerometer, 1 for "
        "temperature)",
    )
    parser.add_argument(
        "--batch",
        type=positive_integer,
        metavar="READINGS",
        help="readings in a request; default: the readings of half a second, at most 500",
    )
    parser.add_argument(
        "--jitter",
        type=fraction,
        default=0.0,
        metavar="PART",
        help="how late a reading may be, as a fraction of the reading interval (default 0)",
    )
    parser.add_argument(
        "--gap-every",
        type=interval,
        default=0.0,
        metavar="SECONDS",
        help="time between two gaps; in a gap, a device takes no readings; default: no gaps",
    )
    parser.add_argument(
        "--gap-seconds",
        type=interval,
        default=5.0,
        metavar="SECONDS",
        help="length of a gap (default 5)",
    )
    parser.add_argument("--password", default="demo", help="password of the vault (default demo)")
    parser.add_argument(
        "--readings",
        type=positive_integer,
        help="stop after this many readings of each device; default: never",
    )
    parser.add_argument("--insecure", action="store_true", help="accept any TLS certificate")
    parser.set_defaults(command=_simulate)


def add_send(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `send`."""
    add_service(parser)
    parser.add_argument(
        "fields",
        nargs="*",
        metavar="FIELD=VALUE",
        help="fields of one reading; default: one reading per line of standard input, as JSON",
    )
    parser.add_argument(
        "--time",
        type=moment,
        default="now",
        help="time of readings without a time of their own: RFC 3339 or Unix microseconds "
        "(default now)",
    )
    parser.add_argument(
        "--wait",
        type=seconds,
        default=60.0,
        metavar="SECONDS",
        help="how long to retry while the service is unavailable (default 60)",
    )
    parser.add_argument(
        "--outbox",
        type=Path,
        metavar="FILE",
        help="file that keeps unacknowledged readings; the next call with this file sends them",
    )
    parser.add_argument("--quiet", action="store_true", help="print errors only")
    add_password(parser)
    parser.set_defaults(command=_send)


def _simulate(parsed: argparse.Namespace) -> int:
    from iot_tools.devices.sensors import KINDS, Schedule  # noqa: PLC0415 -- only where needed
    from iot_tools.devices.simulation import Simulation, simulate  # noqa: PLC0415

    schedule = Schedule(
        rate=parsed.rate or KINDS[parsed.kind].rate,
        jitter=parsed.jitter,
        gap_every=parsed.gap_every,
        gap_seconds=parsed.gap_seconds,
    )
    names = ("url", "password", "kind", "devices", "batch", "readings", "insecure")
    simulation = Simulation(
        **{name: getattr(parsed, name) for name in names},
        schedule=schedule,
        token=token_of(parsed),
        tls_context=tls_of(parsed),
    )
    with checked_url():
        simulation.client()
    return simulate(simulation, _progress_line())


def _progress_line() -> "Show | None":
    """Return a function that overwrites the last line of the terminal; None without a terminal."""
    if not sys.stderr.isatty():
        return None

    def show(line: str) -> None:
        with suppress(OSError):  # the terminal may be closed
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)

    return show


def _send(parsed: argparse.Namespace) -> int:
    from iot_sensor_client import RetryPolicy  # noqa: PLC0415 -- only where needed
    from iot_tools.devices.sender import (  # noqa: PLC0415
        counted,
        parse_lines,
        reading_of,
        send,
        send_through,
    )

    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8-sig", errors="surrogateescape")
    readings = (
        [reading_of(parsed.fields, parsed.time)]
        if parsed.fields
        else parse_lines(sys.stdin, parsed.time)
    )
    retry = RetryPolicy(max_attempts=_ENDLESS, max_seconds=parsed.wait)
    with service_client(parsed, password_of(parsed), retry=retry) as client:
        if parsed.outbox is not None:
            said = send_through(parsed.outbox, client, readings, wait_seconds=parsed.wait)
        else:
            sent = send(client, parsed.url, readings)
            said = f"{counted(sent)} acknowledged"
    if not parsed.quiet:
        print(f"{parsed.url}: {said}")
    return 0
