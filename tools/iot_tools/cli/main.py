"""The `iot-sensor` command."""

import argparse
import importlib
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from typing import cast

from iot_cipher.secrets import disable_core_dumps
from iot_models import logs, settings, tracing
from iot_models.errors import IotError, SettingsError

from .command_parser import PROGRAM, CommandParser, ShowVersion
from .option_types import Subparsers, seconds

INTERRUPTED = 128 + signal.SIGINT
Command = Callable[[argparse.Namespace], int]
AddCommand = Callable[["Subparsers[argparse.ArgumentParser]"], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand. Return 2 when a setting or an option is wrong, 1 for other errors.

    An error is reported as one line on stderr. After Ctrl-C, return 130 as shells do.
    """
    try:
        return _run_command(arguments)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    except IotError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        print("; ".join(["stopped", *map(str, error.args)]), file=sys.stderr)
        return INTERRUPTED


def _run_command(arguments: Sequence[str] | None) -> int:
    tracing.keep_out()
    if settings.load_one("log_format") == logs.JSON:
        logs.start(logs.JSON, "INFO", sys.stdout)
    else:
        logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(message)s")
    disable_core_dumps()
    settings.drop_stray_libpq_variables()
    given = sys.argv[1:] if arguments is None else arguments
    parsed = _parser(given).parse_args(given)
    command: Command = parsed.command
    return command(parsed)


def _parser(arguments: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Build the parser of the command that `arguments` begin with, else of all commands."""
    parser = CommandParser(
        prog=PROGRAM,
        description="Run, use and operate the sensor service.",
        epilog="Each command shows its options and an example: iot-sensor COMMAND --help",
    )
    parser.add_argument("--version", action=ShowVersion)
    commands = cast(
        "Subparsers[argparse.ArgumentParser]",
        parser.add_subparsers(required=True, metavar="command"),
    )
    given = {arguments[0]} & set(_COMMANDS) if arguments else set[str]()
    for name in given or _COMMANDS:
        _COMMANDS[name](commands)
    return parser


def _imported(module: str, function: str) -> AddCommand:
    """Return a function that imports a module when its command is added.

    Half of the time of a short command would pass with imports for other commands.
    """

    def add(commands: "Subparsers[argparse.ArgumentParser]") -> None:
        getattr(importlib.import_module(module), function)(commands)

    return add


def _add_run(commands: "Subparsers[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("run", help="run the whole service on this machine (make run)")
    parser.add_argument("--port", default="5000", help="port of the API (PORT; default 5000)")
    parser.add_argument(
        "--data-dir", default=".local", help="directory of all data (DATA_DIR; default .local)"
    )
    parser.add_argument(
        "--devices", default="1", help="number of simulated devices (DEVICES; default 1)"
    )
    parser.add_argument(
        "--tls", default="0", help="1: serve https with a self-signed certificate (TLS; default 0)"
    )
    parser.add_argument("--started", default="", help=argparse.SUPPRESS)
    parser.set_defaults(command=_run)


def _run(parsed: argparse.Namespace) -> int:
    from iot_tools.local import options, run  # noqa: PLC0415 -- needs packages of local servers

    names = {"PORT": "port", "DATA_DIR": "data_dir", "DEVICES": "devices", "TLS": "tls"}
    given = {name: getattr(parsed, field) for name, field in names.items()}
    return run.run(options.parse({**given, "STARTED": parsed.started}))


def _add_settings(commands: "Subparsers[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("settings", help="list all settings (environment variables)")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
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
    parser = commands.add_parser("migrate", help="bring the database schema up to date")
    parser.add_argument(
        "--wait",
        type=seconds,
        default=0.0,
        metavar="SECONDS",
        help="time to wait until Postgres accepts connections (default 0)",
    )
    parser.add_argument(
        "--grant",
        action="store_true",
        help="grant the roles iot_api and iot_writer exactly the privileges they "
        "need (production/postgres-roles.sql of the chart)",
    )
    parser.set_defaults(command=_migrate)


def _migrate(parsed: argparse.Namespace) -> int:
    from .migrate import run  # noqa: PLC0415 -- only this command needs the writer

    return run(parsed)


def _add_completion(commands: "Subparsers[argparse.ArgumentParser]") -> None:
    from .completion import add_completion  # noqa: PLC0415 -- only where it is needed

    add_completion(commands, _parser)


_COMMANDS: dict[str, AddCommand] = {
    "run": _add_run,
    "simulate": _imported("iot_tools.cli.devices", "add_simulate"),
    "send": _imported("iot_tools.cli.devices", "add_send"),
    "follow": _imported("iot_tools.cli.follow", "add_follow"),
    "settings": _add_settings,
    "migrate": _add_migrate,
    "keys": _imported("iot_tools.cli.keys", "add_keys"),
    "audit": _imported("iot_tools.cli.audit_log", "add_audit"),
    "dead": _imported("iot_tools.cli.dead_letters", "add_dead"),
    "claim-redis": _imported("iot_tools.cli.claim_redis", "add_claim"),
    "held": _imported("iot_tools.cli.held_entries", "add_held"),
    "tokens": _imported("iot_tools.cli.tokens", "add_tokens"),
    "vault": _imported("iot_tools.cli.vault", "add_vault"),
    "top": _imported("iot_tools.cli.top", "add_top"),
    "export": _imported("iot_tools.cli.export_file", "add_export"),
    "import": _imported("iot_tools.cli.import_file", "add_import"),
    "secrets": _imported("iot_tools.cluster.arguments", "add_secrets"),
    "probe": _imported("iot_tools.cli.checks", "add_probe"),
    "canary": _imported("iot_tools.cli.checks", "add_canary"),
    "soak": _imported("iot_tools.cli.checks", "add_soak"),
    "capacity": _imported("iot_tools.capacity.command", "add_capacity"),
    "completion": _add_completion,
}
