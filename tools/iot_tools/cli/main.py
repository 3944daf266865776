"""The `iot-sensor` command."""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from iot_models import settings
from iot_models.errors import IotError, SettingsError
from iot_tools.capacity.command import add_capacity
from iot_tools.cluster.arguments import add_secrets

from .checks import add_canary, add_probe, add_soak, seconds
from .claim_redis import add_claim
from .dead_letters import Subparsers, add_dead
from .held_entries import add_held
from .token_option import add_token, token_of
from .tokens import add_tokens

Command = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; 2 for what the caller got wrong, with one sentence on stderr."""
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(message)s")
    settings.drop_stray_libpq_variables()
    parsed = _parser().parse_args(arguments)
    command: Command = parsed.command
    try:
        return command(parsed)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    except IotError as error:
        print(error, file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="iot-sensor", description="Collects sensor readings.")
    commands = parser.add_subparsers(required=True, metavar="command")
    for add in (
        _add_run,
        _add_simulate,
        _add_settings,
        _add_migrate,
        _add_keys,
        add_dead,
        add_claim,
        add_held,
        add_tokens,
        add_secrets,
        add_probe,
        add_canary,
        add_soak,
        add_capacity,
    ):
        add(commands)
    return parser


def _add_run(commands: "Subparsers[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("run", help="run the whole service on this machine (make run)")
    parser.add_argument("--port", default="5000", help="of the API (PORT; default 5000)")
    parser.add_argument("--data-dir", default=".local", help="DATA_DIR; default .local")
    parser.add_argument("--devices", default="1", help="simulated devices (DEVICES; default 1)")
    parser.add_argument("--tls", default="0", help="1: https, with a certificate of its own (TLS)")
    parser.add_argument("--started", default="", help=argparse.SUPPRESS)
    parser.set_defaults(command=_run)


def _run(parsed: argparse.Namespace) -> int:
    from iot_tools.local import options, run  # noqa: PLC0415 -- needs the servers' packages

    names = {"PORT": "port", "DATA_DIR": "data_dir", "DEVICES": "devices", "TLS": "tls"}
    given = {name: getattr(parsed, field) for name, field in names.items()}
    return run.run(options.parse({**given, "STARTED": parsed.started}))


def _add_simulate(commands: "Subparsers[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("simulate", help="send readings, as RFID interrogators do")
    parser.add_argument("--url", required=True, help="of the service, such as http://host:5000")
    parser.add_argument("--devices", type=_whole, default=1, help="how many (default 1)")
    parser.add_argument("--rate", type=_rate, default=10.0, help="readings/s of each (default 10)")
    parser.add_argument("--password", default="demo", help="to store under (default demo)")
    add_token(parser)
    parser.add_argument("--readings", type=_whole, help="of each device, then end; else for ever")
    parser.add_argument("--insecure", action="store_true", help="accept any certificate")
    parser.set_defaults(command=_simulate)


def _simulate(parsed: argparse.Namespace) -> int:
    from iot_tools.local.simulate import Simulation, simulate  # noqa: PLC0415

    names = ("url", "password", "devices", "rate", "readings", "insecure")
    given = {name: getattr(parsed, name) for name in names}
    simulation = Simulation(**given, token=token_of(parsed))
    try:
        simulation.client()
    except ValueError as error:
        raise SettingsError(f"--url is {error}") from None
    return simulate(simulation)


def _add_settings(commands: "Subparsers[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("settings", help="list every environment variable")
    parser.add_argument("--markdown", action="store_true", help="as a table for documents")
    parser.set_defaults(command=_settings)


def _settings(parsed: argparse.Namespace) -> int:
    rows = [("Variable", "Default", "Meaning"), *settings.describe()]
    if parsed.markdown:
        lines = [f"| {' | '.join(row)} |" for row in rows]
        print("\n".join([lines[0], "| --- | --- | --- |", *lines[1:]]))
        return 0
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, default, meaning in rows:
        print(f"{name:{widths[0]}}  {default:{widths[1]}}  {meaning}")
    return 0


def _add_migrate(commands: "Subparsers[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("migrate", help="bring the database's schema up to date")
    parser.add_argument("--wait", type=seconds, default=0.0, metavar="SECONDS",
                        help="for Postgres to be reachable (default 0)")  # fmt: skip
    parser.add_argument("--grant", action="store_true",
                        help="give iot_api and iot_writer their rights on the tables, and no "
                        "others (production/postgres-roles.sql of the chart)")  # fmt: skip
    parser.set_defaults(command=_migrate)


def _migrate(parsed: argparse.Namespace) -> int:
    from .migrate import run  # noqa: PLC0415 -- only this command needs the writer

    return run(parsed)


def _add_keys(commands: "Subparsers[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("keys", help="the encryption keys")
    actions = parser.add_subparsers(required=True, metavar="action")
    create = actions.add_parser("create", help="make a keyring file, unless it is there")
    create.add_argument("path", type=Path)
    create.set_defaults(command=_create_keys)
    writer = actions.add_parser("writer", help="derive the file with a writer's keys alone")
    writer.add_argument("--keyring", type=Path, required=True, help="the whole keyring, to read")
    writer.add_argument("--file", type=Path, required=True, help="the writer's keys, to write")
    writer.set_defaults(command=_derive_writer_keys)


def _create_keys(parsed: argparse.Namespace) -> int:
    from iot_cipher.keyring import create_keyring_file  # noqa: PLC0415

    try:
        made = create_keyring_file(parsed.path)
    except OSError as error:
        raise SettingsError(f"{parsed.path} can't be written: {error.strerror}") from None
    print(f"{parsed.path}: made" if made else f"{parsed.path}: already there, left as it is")
    return 0


def _derive_writer_keys(parsed: argparse.Namespace) -> int:
    from iot_cipher.writer_keys import write_writer_keys_file  # noqa: PLC0415

    try:
        made = write_writer_keys_file(parsed.keyring, parsed.file)
    except OSError as error:
        raise SettingsError(f"{parsed.file} can't be written: {error.strerror}") from None
    print(f"{parsed.file}: made" if made else f"{parsed.file}: already as it should be")
    return 0


def _whole(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, not {text!r}")
    return int(text)


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate <= 100_000:
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return rate
