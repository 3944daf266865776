"""`iot-sensor completion`: print a script that completes the command in a shell."""

import argparse
from collections.abc import Callable

import shtab


def add_completion(
    parser: argparse.ArgumentParser, whole_parser: Callable[[], argparse.ArgumentParser]
) -> None:
    """Add the arguments of `completion`. `whole_parser` returns the parser of all commands."""
    parser.add_argument("shell", choices=shtab.SUPPORTED_SHELLS, help="the shell")

    def complete(parsed: argparse.Namespace) -> int:
        print(shtab.complete(whole_parser(), parsed.shell))
        return 0

    parser.set_defaults(command=complete)
