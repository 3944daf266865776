"""The arguments of `iot-sensor probe`, `iot-sensor canary` and `iot-sensor soak`."""

import argparse
import secrets
from pathlib import Path

from .option_types import interval, port, seconds
from .service_option import add_service, checked_url
from .tls_options import tls_of
from .token_option import read_secret, token_of


def add_probe(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `probe`."""
    _add_service(parser)
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=60.0,
        metavar="SECONDS",
        help="time for the whole probe (default 60)",
    )
    parser.set_defaults(command=_probe)


def add_canary(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `canary`."""
    _add_service(parser)
    parser.add_argument(
        "--every",
        type=interval,
        default=30.0,
        metavar="SECONDS",
        help="time between two readings (default 30)",
    )
    parser.add_argument(
        "--grace",
        type=seconds,
        default=60.0,
        metavar="SECONDS",
        help="time after which a reading that can't be read counts as lost (default 60)",
    )
    parser.add_argument(
        "--metrics-port",
        type=port,
        default=9102,
        help="port of /metrics and /healthz; 0: none (default 9102)",
    )
    parser.set_defaults(command=_canary)


def add_soak(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `soak`."""
    _add_service(parser)
    parser.add_argument("--devices", type=int, default=4, help="number of devices (default 4)")
    parser.add_argument(
        "--rate", type=float, default=20.0, help="readings/s of each device (default 20)"
    )
    parser.add_argument(
        "--seconds", type=seconds, default=60.0, help="duration of the load (default 60)"
    )
    parser.add_argument(
        "--until",
        type=Path,
        metavar="FILE",
        help="end the load early, as soon as this file is not empty",
    )
    parser.add_argument(
        "--verify",
        type=seconds,
        default=120.0,
        metavar="SECONDS",
        help="time to store and read all readings (default 120)",
    )
    parser.add_argument(
        "--timeout",
        type=interval,
        default=30.0,
        help="timeout of one request in seconds (default 30)",
    )
    parser.add_argument(
        "--allow-failures",
        action="store_true",
        help="tolerate failed requests; acknowledged readings must not be lost",
    )
    parser.set_defaults(command=_soak)


def _add_service(parser: argparse.ArgumentParser) -> None:
    add_service(parser)
    parser.add_argument(
        "--password-file",
        type=Path,
        help="file with the password of the vault; default: a random password",
    )


def _probe(parsed: argparse.Namespace) -> int:
    from iot_tools.checks.probe import Probe  # noqa: PLC0415 -- only where it is needed

    token, password, tls = token_of(parsed), _password_of(parsed), tls_of(parsed)
    with checked_url():
        probe = Probe(parsed.url, password, token=token, timeout=parsed.timeout, tls_context=tls)
    took = probe.run()
    print(f"{parsed.url}: the reading came back unchanged {took:.2f} s after the acknowledgement")
    return 0


def _canary(parsed: argparse.Namespace) -> int:
    from iot_tools.checks.canary import Canary, run  # noqa: PLC0415 -- only where it is needed

    password, tls = _password_of(parsed), tls_of(parsed)
    with checked_url():
        canary = Canary(
            parsed.url,
            password,
            token=lambda: token_of(parsed),
            every=parsed.every,
            grace=parsed.grace,
            tls_context=tls,
        )
    token_of(parsed)  # fail at startup when the token is invalid
    return run(canary, parsed.metrics_port)


def _soak(parsed: argparse.Namespace) -> int:
    from iot_tools.checks.soak import Soak, run  # noqa: PLC0415 -- only where it is needed

    names = ("url", "devices", "rate", "seconds", "until", "verify", "timeout")
    soak = Soak(
        **{name: getattr(parsed, name) for name in names},
        token=token_of(parsed),
        password=_password_of(parsed),
        tls_context=tls_of(parsed),
        strict=not parsed.allow_failures,
    )
    soak.check()
    return run(soak)


def _password_of(parsed: argparse.Namespace) -> str:
    path: Path | None = parsed.password_file
    return secrets.token_urlsafe(24) if path is None else read_secret(path, "password")
