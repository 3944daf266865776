"""The parser of `iot-sensor` and of its subcommands."""

import argparse
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Never

from .option_types import Subparsers

PROGRAM = "iot-sensor"
_WIDTH = 100

EXAMPLES = {
    "run": "run --port 5000 --data-dir .local",
    "simulate": "simulate --url http://127.0.0.1:5000 --kind temperature --devices 20",
    "send": "send --url http://127.0.0.1:5000 --password-file password temperature=21.5 unit=C",
    "follow": "follow --url http://127.0.0.1:5000 --password-file password",
    "export": "export readings.parquet --flatten --url https://iot.example.org --token-file token",
    "import": "import encpassword.db --url https://iot.example.org --token-file admin-token",
    "settings": "settings --markdown",
    "migrate": "migrate --wait 60 --grant",
    "keys create": "keys create keyring.json",
    "keys writer": "keys writer --keyring keyring.json --file writer-keys.json",
    "keys list": "keys list --keyring keyring.json",
    "keys add": "keys add --keyring keyring.json --writer-keys writer-keys.json",
    "keys status": "keys status --keyring keyring.json",
    "keys promote": "keys promote 2 --keyring keyring.json --writer-keys writer-keys.json",
    "keys rewrap": "keys rewrap --keyring keyring.json",
    "keys retire": "keys retire 1 --keyring keyring.json --writer-keys writer-keys.json",
    "keys rotate": "keys rotate --secret iot-sensor-keys --writer-secret iot-sensor-writer-keys",
    "audit verify": "audit verify",
    "audit export": "audit export > audit.ndjson",
    "audit accept": "audit accept",
    "dead list": "dead list",
    "dead show": "dead show 1763877000000-0",
    "dead replay": "dead replay --all",
    "dead drop": "dead drop 1763877000000-0",
    "claim-redis": "claim-redis",
    "held list": "held list",
    "held drop": "held drop 0b6f2a3e-3c1d-4f0a-9a55-1c8f1d2e3a4b",
    "tokens create": "tokens create --file tokens.json --name lab --scope read,audit",
    "tokens list": "tokens list --file tokens.json",
    "tokens revoke": "tokens revoke --file tokens.json --name lab",
    "vault password": "vault password --url https://iot.example.org --token-file admin-token",
    "vault erase": "vault erase --url https://iot.example.org --token-file admin-token",
    "top": "top --url https://iot.example.org --token-file admin-token",
    "secrets create": "secrets create --namespace sensors --keyring iot-sensor-keys",
    "probe": "probe --url https://iot.example.org --token-file token",
    "canary": "canary --url https://iot.example.org --token-file token --every 30",
    "soak": "soak --url https://iot.example.org --devices 10 --rate 20 --seconds 600",
    "capacity": "capacity --devices 1000 --readings-per-second 50",
    "completion": "completion bash > ~/.local/share/bash-completion/completions/iot-sensor",
}
"""An example of each command, without the name of the program."""


class CommandParser(argparse.ArgumentParser):
    """An `ArgumentParser` that adds an example to its help and prints an error as one line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.register("action", "parsers", _Subcommands)
        example = EXAMPLES.get(self.prog.removeprefix(f"{PROGRAM} "))
        if example is not None:
            self.epilog = f"example:\n  {PROGRAM} {example}"
            self.formatter_class = argparse.RawDescriptionHelpFormatter

    def parse_known_args(self, *arguments: Any, **options: Any) -> Any:
        """Parse arguments. An unknown argument is an error of the subcommand that received it.

        argparse would leave it to the main parser, whose help does not show the subcommand's
        options. If a required argument is missing, too, argparse reports only that.
        """
        parsed, unknown = super().parse_known_args(*arguments, **options)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return parsed, unknown

    def error(self, message: str) -> Never:
        """Print the error and exit with 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


if TYPE_CHECKING:
    _Base = Subparsers[CommandParser]
else:  # argparse's class is generic for type checkers only
    _Base = Subparsers


class _Subcommands(_Base):
    """Adds subcommands.

    In the list of commands, each subcommand has a line that describes it. The help of the
    subcommand begins with the same line.
    """

    def add_parser(self, name: str, **options: Any) -> CommandParser:
        """Add a subcommand. If `options` has no `description`, make one from `help`."""
        meaning = f"{options['help'][:1].upper()}{options['help'][1:]}."
        options.setdefault("description", textwrap.fill(meaning, width=_WIDTH))
        return super().add_parser(name, **options)


class ShowVersion(argparse.Action):
    """`--version`: print the version and exit.

    Reading the version from the package's metadata is slow, so only this option does it.
    """

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="print the version and exit")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print the version and exit."""
        from importlib.metadata import version  # noqa: PLC0415 -- takes as long as a short command

        print(f"{PROGRAM} {version('iot-tools')}")
        parser.exit()
