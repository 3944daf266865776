"""The `iot-sensor` command."""

import argparse
import errno
import importlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from io import TextIOWrapper
from typing import NoReturn, cast

from iot_cipher.secrets import disable_core_dumps
from iot_models import logs, settings, tracing
from iot_models.errors import IotError, SettingsError

from .command_parser import PROGRAM, CommandParser, ShowVersion
from .option_types import Subparsers, seconds

INTERRUPTED = 128 + signal.SIGINT
CLOSED_PIPE = 128 + signal.SIGPIPE
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
Command = Callable[[argparse.Namespace], int]
AddArguments = Callable[[argparse.ArgumentParser], None]


def main(
    arguments: Sequence[str] | None = None, *, imported: Callable[[], None] = lambda: None
) -> int:
    """Run one subcommand. Return its exit status.

    An `IotError` is printed on stderr without a traceback. The exit status is 2 if a setting or an
    option is wrong, and 1 after any other `IotError`. After Ctrl-C, the exit status is 130, as in a
    shell. If the output is a pipe whose reader has exited, such as `head`, the exit status is 141,
    as after SIGPIPE. `imported` is called after the imports and before the subcommand runs.
    """
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        # The encoding of a terminal may lack characters, for example of a file name. In the locale
        # C, Python sets surrogateescape, which prints each file name as it is.
        sys.stdout.reconfigure(errors="backslashreplace")
    with _output_errors():
        return _run_command(arguments, imported)


@contextmanager
def _output_errors() -> Iterator[None]:
    """Exit without a traceback if the output is a closed pipe, or its disk is full."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # Python's own flush at exit is outside this block
    except BrokenPipeError:
        _drop_output_and_exit(CLOSED_PIPE)
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        print(f"the output can't be written: {error.strerror}", file=sys.stderr)
        _drop_output_and_exit(1)


def _drop_output_and_exit(status: int) -> NoReturn:
    # Python flushes the output again at exit, and would print the same error.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


def _run_command(arguments: Sequence[str] | None, imported: Callable[[], None]) -> int:
    try:
        command = _loaded(arguments)
        imported()
        return command()
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    except IotError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        print("; ".join(["stopped", *map(str, error.args)]), file=sys.stderr)
        return INTERRUPTED


def _loaded(arguments: Sequence[str] | None) -> Callable[[], int]:
    """Parse the command line. Return a function that runs the subcommand with its arguments.

    First prepare this process: start the log, disable core dumps, prevent the import of
    OpenTelemetry, and remove libpq's variables that would change the meaning of IOT_POSTGRES_URL.
    """
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
    return partial(command, parsed)


def _parser(arguments: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """Build the parser for the command line `arguments`.

    If `arguments` begins with the name of a command, the parser has only this command. If
    `arguments` is empty, or begins with `-h` or `--help`, the parser lists all commands without
    their options: the imports for the options would take four times as long as the rest. Otherwise,
    or if `arguments` is None, the parser has all commands with their options.
    """
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
    first = None if arguments is None else [*arguments[:1]]
    named = [name for name in first or () if name in _COMMANDS]
    only_lists = first in ([], ["-h"], ["--help"])
    for name in named or _COMMANDS:
        meaning, add_arguments = _COMMANDS[name]
        command = commands.add_parser(name, help=meaning)
        if not only_lists:
            add_arguments(command)
    return parser


def _imported(module: str, function: str) -> AddArguments:
    """Return a function that imports `module`, then calls its `function` with the parser."""

    def add(parser: argparse.ArgumentParser) -> None:
        getattr(importlib.import_module(module), function)(parser)

    return add


def _add_run(parser: argparse.ArgumentParser) -> None:
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


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    parser.set_defaults(command=_settings)


def _settings(parsed: argparse.Namespace) -> int:
    from .tables import print_table  # noqa: PLC0415 -- only where it is needed

    head = ("Variable", "Default", "Meaning")
    print_table(head, list(settings.describe()), markdown=parsed.markdown)
    return 0


def _add_migrate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--wait",
        type=seconds,
        default=0.0,
        metavar="SECONDS",
        help="time to wait until Postgres accepts connections, and until other migrations and "
        "transactions release the tables that the migration changes (default 0)",
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


def _add_completion(parser: argparse.ArgumentParser) -> None:
    from .completion import add_completion  # noqa: PLC0415 -- only where it is needed

    add_completion(parser, _parser)


_COMMANDS: dict[str, tuple[str, AddArguments]] = {
    "run": ("run the whole service on this machine (make run)", _add_run),
    "simulate": (
        "send readings of simulated devices",
        _imported("iot_tools.cli.devices", "add_simulate"),
    ),
    "send": (
        "send one reading, or the readings on standard input, for example from cron",
        _imported("iot_tools.cli.devices", "add_send"),
    ),
    "follow": (
        "print the readings of a password while they are stored, one JSON object per line",
        _imported("iot_tools.cli.follow", "add_follow"),
    ),
    "settings": ("list all settings (environment variables)", _add_settings),
    "migrate": ("bring the database schema up to date", _add_migrate),
    "keys": (
        "create keyrings, derive the writers' keys, rotate keys",
        _imported("iot_tools.cli.keys", "add_keys"),
    ),
    "audit": (
        "check and export the audit log",
        _imported("iot_tools.cli.audit_log", "add_audit"),
    ),
    "dead": (
        "list, show, replay or drop dead letters, which could not be stored",
        _imported("iot_tools.cli.dead_letters", "add_dead"),
    ),
    "claim-redis": (
        (
            "mark Redis as belonging to this database; use it after a restore, never while another "
            "release uses that Redis"
        ),
        _imported("iot_tools.cli.claim_redis", "add_claim"),
    ),
    "held": (
        "list or drop held entries, which wait because Postgres lacks their vault",
        _imported("iot_tools.cli.held_entries", "add_held"),
    ),
    "tokens": (
        "create, list or revoke bearer tokens of the API",
        _imported("iot_tools.cli.tokens", "add_tokens"),
    ),
    "vault": (
        "change the password of a vault, or erase a vault",
        _imported("iot_tools.cli.vault", "add_vault"),
    ),
    "top": (
        "show rates, backlog, writers, shards and dead letters",
        _imported("iot_tools.cli.top", "add_top"),
    ),
    "export": (
        "export the readings of a password: CSV, NDJSON, Parquet, or the old program's SQLite",
        _imported("iot_tools.cli.export_file", "add_export"),
    ),
    "import": (
        "import readings from a file: CSV, NDJSON, JSON, Parquet, or a database of the old program",
        _imported("iot_tools.cli.import_file", "add_import"),
    ),
    "secrets": (
        "create the Secrets of a release in a cluster",
        _imported("iot_tools.cluster.arguments", "add_secrets"),
    ),
    "probe": (
        "send a reading, read it back and compare",
        _imported("iot_tools.cli.checks", "add_probe"),
    ),
    "canary": (
        "send readings around the clock and count lost ones",
        _imported("iot_tools.cli.checks", "add_canary"),
    ),
    "soak": (
        "send load, count failures and read all readings back",
        _imported("iot_tools.cli.checks", "add_soak"),
    ),
    "capacity": (
        "compute what a fleet of devices needs",
        _imported("iot_tools.capacity.command", "add_capacity"),
    ),
    "completion": ("print a script that completes this command in a shell", _add_completion),
}
"""By name of the command: its line in the list of commands, and the function that adds its
arguments."""
