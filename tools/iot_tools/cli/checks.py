"""The arguments of `iot-sensor probe`, `iot-sensor canary` and `iot-sensor soak`."""

import argparse
import math
import secrets
from pathlib import Path

from iot_models.errors import SettingsError
from iot_models.text_files import read_text

from .dead_letters import Subparsers
from .token_option import add_token, token_of


def seconds(text: str) -> float:
    """A time that an option gives."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 86_400:
        raise argparse.ArgumentTypeError(f"must be seconds from 0 to 86400, not {text!r}")
    return value


def add_probe(commands: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add `probe` to the command."""
    parser = commands.add_parser("probe", help="send a reading, read it back, compare")
    _add_service(parser)
    parser.add_argument("--timeout", type=seconds, default=60.0, help="in seconds (default 60)")
    parser.set_defaults(command=_probe)


def add_canary(commands: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add `canary` to the command."""
    parser = commands.add_parser("canary", help="send readings for ever, count those that are lost")
    _add_service(parser)
    parser.add_argument("--every", type=_pause, default=30.0, help="in seconds (default 30)")
    parser.add_argument("--grace", type=seconds, default=60.0, metavar="SECONDS",
                        help="after which a reading that can't be read is lost (default 60)"
                        )  # fmt: skip
    parser.add_argument("--metrics-port", type=_port, default=9102,
                        help="of /metrics and /healthz; 0: none (default 9102)")  # fmt: skip
    parser.set_defaults(command=_canary)


def add_soak(commands: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add `soak` to the command."""
    parser = commands.add_parser("soak", help="send load, count what fails, read all of it back")
    _add_service(parser)
    parser.add_argument("--devices", type=int, default=4, help="how many (default 4)")
    parser.add_argument("--rate", type=float, default=20.0, help="readings/s of each (default 20)")
    parser.add_argument("--seconds", type=seconds, default=60.0, help="of load (default 60)")
    parser.add_argument("--until", type=Path, metavar="FILE",
                        help="end the load earlier: when something stands in it")  # fmt: skip
    parser.add_argument("--verify", type=seconds, default=120.0, metavar="SECONDS",
                        help="for all to be stored and read (default 120)")  # fmt: skip
    parser.add_argument("--timeout", type=seconds, default=30.0, help="of a request (default 30)")
    parser.add_argument("--allow-failures", action="store_true",
                        help="requests may fail; readings may still not")  # fmt: skip
    parser.set_defaults(command=_soak)


def _add_service(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", required=True, help="of the service, such as http://host:5000")
    add_token(parser)
    parser.add_argument("--password-file", type=Path, help="to store under; default: a random one")


def _probe(parsed: argparse.Namespace) -> int:
    from iot_tools.checks.probe import Probe  # noqa: PLC0415 -- only where it is needed

    token, password = token_of(parsed), _password_of(parsed)
    try:
        probe = Probe(parsed.url, password, token=token, timeout=parsed.timeout)
    except ValueError as error:
        raise SettingsError(f"--url is {error}") from None
    took = probe.run()
    print(f"{parsed.url}: a reading came back unaltered, {took:.2f} s after it was acknowledged")
    return 0


def _canary(parsed: argparse.Namespace) -> int:
    from iot_tools.checks.canary import Canary, run  # noqa: PLC0415 -- only where it is needed

    password = _password_of(parsed)
    try:
        canary = Canary(
            parsed.url,
            password,
            token=lambda: token_of(parsed),
            every=parsed.every,
            grace=parsed.grace,
        )
    except ValueError as error:
        raise SettingsError(f"--url is {error}") from None
    token_of(parsed)  # what is wrong with it now is told now
    return run(canary, parsed.metrics_port)


def _soak(parsed: argparse.Namespace) -> int:
    from iot_tools.checks.soak import Soak, run  # noqa: PLC0415 -- only where it is needed

    names = ("url", "devices", "rate", "seconds", "until", "verify", "timeout")
    soak = Soak(
        **{name: getattr(parsed, name) for name in names},
        token=token_of(parsed),
        password=_password_of(parsed),
        strict=not parsed.allow_failures,
    )
    soak.check()
    return run(soak)


def _password_of(parsed: argparse.Namespace) -> str:
    path: Path | None = parsed.password_file
    if path is None:
        return secrets.token_urlsafe(24)
    try:
        password = read_text(path).strip()
    except OSError as error:
        raise SettingsError(f"{path} can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path} can't be read: it is not UTF-8 text") from None
    if not password:
        raise SettingsError(f"{path} holds no password")
    return password


def _pause(text: str) -> float:
    value = seconds(text)
    if value < 0.1:
        raise argparse.ArgumentTypeError(f"must be seconds from 0.1 to 86400, not {text!r}")
    return value


def _port(text: str) -> int:
    if not text.isdigit() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"must be a port, not {text!r}")
    return int(text)
