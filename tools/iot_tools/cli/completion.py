"""`iot-sensor completion`: print a script that completes the command in a shell."""

import argparse
from collections.abc import Callable
from pathlib import Path

import shtab

from .option_types import Subparsers


def add_completion(
    parser: argparse.ArgumentParser, whole_parser: Callable[[], argparse.ArgumentParser]
) -> None:
    """Add the arguments of `completion`. `whole_parser` returns the parser of all commands."""
    parser.add_argument("shell", choices=shtab.SUPPORTED_SHELLS, help="the shell")

    def complete(parsed: argparse.Namespace) -> int:
        whole = whole_parser()
        _complete_files(whole)
        print(shtab.complete(whole, parsed.shell))
        return 0

    parser.set_defaults(command=complete)


def _complete_files(parser: argparse.ArgumentParser) -> None:
    """Let the shell complete the names of files for each argument that is a path."""
    for action in parser._actions:  # noqa: SLF001 -- argparse has no public name for it
        if action.type is Path:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif isinstance(action, Subparsers):
            for command in action.choices.values():
                _complete_files(command)
