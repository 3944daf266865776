"""`iot-sensor completion`: print a script that completes the command in a shell."""

import argparse
from collections.abc import Callable

import shtab

from .option_types import Subparsers


def add_completion(
    commands: "Subparsers[argparse.ArgumentParser]",
    whole_parser: Callable[[], argparse.ArgumentParser],
) -> None:
    """Add `completion` to the command. `whole_parser` returns the parser of all commands."""
    parser = commands.add_parser(
        "completion", help="print a script that completes this command in a shell"
    )
    parser.add_argument("shell", choices=shtab.SUPPORTED_SHELLS, help="the shell")

    def complete(parsed: argparse.Namespace) -> int:
        print(shtab.complete(whole_parser(), parsed.shell))
        return 0

    parser.set_defaults(command=complete)
