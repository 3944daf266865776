"""`iot-sensor tokens`: the bearer tokens that the API asks for."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from iot_cipher.tokens import new_tokens_text, parse_tokens, with_token, without_token
from iot_models.errors import IotError

from .option_types import Subparsers
from .tokens_file import TokensOnDisk


class KeptTokens(Protocol):
    """Where a tokens.json is kept; its name is for messages."""

    name: str

    def read(self) -> str | None:
        """The text as it stands, None when there is none.

        Raises:
            SettingsError: it can't be told.
        """

    def change(self, change: Callable[[str | None], str]) -> None:
        """Keep what `change` makes of the text as it stands.

        All or nothing, and nobody's change is lost that comes at the same time; `change` may be
        called again. What it raises is raised, and nothing is changed.

        Raises:
            SettingsError: it can't be kept.
        """


def add_tokens(commands: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add `tokens create|list|revoke` to the command."""
    parser = commands.add_parser("tokens", help="the tokens that clients of the API bring")
    actions = parser.add_subparsers(required=True, metavar="action")
    create = actions.add_parser("create", help="make one, and print it this once")
    create.add_argument("--scope", required=True, help="by commas: ingest, read, audit, admin")
    create.set_defaults(command=_create)
    listing = actions.add_parser("list", help="names and scopes; the tokens are not known")
    listing.set_defaults(command=_list)
    revoke = actions.add_parser("revoke", help="drop one: refused a second after the API sees it")
    revoke.set_defaults(command=_revoke)
    for action in (create, revoke):
        action.add_argument("--name", required=True, help="of the token")
    for action in (create, listing, revoke):
        where = action.add_mutually_exclusive_group(required=True)
        where.add_argument("--file", type=Path, help="the file that IOT_TOKENS_FILE names")
        where.add_argument("--secret", help="of the cluster; pods see a change in a minute or so")
        action.add_argument("--namespace", help="of the Secret; default: where this runs")


def _kept(parsed: argparse.Namespace) -> KeptTokens:
    if parsed.secret is None:
        return TokensOnDisk(parsed.file)
    from iot_tools.cluster.token_secret import tokens_in_secret  # noqa: PLC0415 -- it is slow to load

    return tokens_in_secret(parsed.secret, parsed.namespace)


def _create(parsed: argparse.Namespace) -> int:
    scopes = [word.strip() for word in parsed.scope.split(",")]
    token = ""

    def add(text: str | None) -> str:
        nonlocal token
        changed, token = with_token(text or new_tokens_text(), parsed.name, scopes)
        return changed

    _kept(parsed).change(add)
    print(token)
    return 0


def _list(parsed: argparse.Namespace) -> int:
    kept = _kept(parsed)
    for grant in parse_tokens(_there(kept, kept.read())).grants:
        print(f"{grant.name:24}  {grant.created}  {','.join(sorted(grant.scopes))}")
    return 0


def _revoke(parsed: argparse.Namespace) -> int:
    kept = _kept(parsed)
    kept.change(lambda text: without_token(_there(kept, text), parsed.name))
    print(f"{parsed.name}: revoked")
    return 0


def _there(kept: KeptTokens, text: str | None) -> str:
    if text is None:
        raise IotError(f"{kept.name} holds no tokens: there is none")
    return text
