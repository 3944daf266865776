"""`iot-sensor tokens`: create, list and revoke the bearer tokens of the API."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from iot_cipher.tokens import new_tokens_text, parse_tokens, with_token, without_token
from iot_models.audit_event import AuditEvent, AuditKind, audit_event
from iot_models.errors import IotError

from .file_on_disk import FileOnDisk
from .option_types import Subparsers


class TokenStorage(Protocol):
    """The place of a tokens.json. Messages contain its `name`."""

    name: str

    def read(self) -> str | None:
        """Return the text; None if there is none.

        Raises:
            SettingsError: the text can't be read.
        """

    def change(self, change: Callable[[str | None], str]) -> None:
        """Replace the text by what `change` returns for it, as a whole or not at all.

        Concurrent changes are not lost: `change` may be called again. When it raises, the text is
        not changed.

        Raises:
            SettingsError: the text can't be written.
        """


def add_tokens(commands: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add `tokens create|list|revoke` to the command."""
    parser = commands.add_parser("tokens", help="bearer tokens of the API")
    actions = parser.add_subparsers(required=True, metavar="action")
    create = actions.add_parser("create", help="create a token and print it; it is not shown again")
    create.add_argument("--scope", required=True, help="for example ingest,read; also audit, admin")
    create.set_defaults(command=_create)
    listing = actions.add_parser("list", help="list the names and scopes, not the tokens")
    listing.set_defaults(command=_list)
    revoke = actions.add_parser("revoke", help="revoke a token; the API refuses it a second later")
    revoke.set_defaults(command=_revoke)
    for action in (create, revoke):
        action.add_argument("--name", required=True, help="name of the token")
    for action in (create, listing, revoke):
        where = action.add_mutually_exclusive_group(required=True)
        where.add_argument("--file", type=Path, help="the file of IOT_TOKENS_FILE")
        where.add_argument(
            "--secret", help="Secret in the cluster; pods see changes within a minute"
        )
        action.add_argument("--namespace", help="of the Secret; default: the namespace of the pod")


def _storage(parsed: argparse.Namespace) -> TokenStorage:
    if parsed.secret is None:
        return FileOnDisk(parsed.file)
    from iot_tools.cluster.token_secret import tokens_in_secret  # noqa: PLC0415 -- slow import

    return tokens_in_secret(parsed.secret, parsed.namespace)


def _create(parsed: argparse.Namespace) -> int:
    scopes = [word.strip() for word in parsed.scope.split(",")]
    token = ""

    def add(text: str | None) -> str:
        nonlocal token
        changed, token = with_token(text or new_tokens_text(), parsed.name, scopes)
        return changed

    storage = _storage(parsed)
    storage.change(add)
    print(token)
    granted = ", ".join(sorted(scopes))
    _record(
        audit_event(
            AuditKind.TOKEN_ADDED, name=parsed.name, scopes=granted, where=str(storage.name)
        )
    )
    return 0


def _list(parsed: argparse.Namespace) -> int:
    storage = _storage(parsed)
    for grant in parse_tokens(_existing(storage, storage.read())).grants:
        print(f"{grant.name:24}  {grant.created}  {','.join(sorted(grant.scopes))}")
    return 0


def _revoke(parsed: argparse.Namespace) -> int:
    storage = _storage(parsed)
    storage.change(lambda text: without_token(_existing(storage, text), parsed.name))
    print(f"{parsed.name}: revoked")
    _record(audit_event(AuditKind.TOKEN_REMOVED, name=parsed.name, where=storage.name))
    return 0


def _record(event: AuditEvent) -> None:
    """Write a change to the audit log, if the environment is that of a writer.

    The change is done: a token must be revocable while a store is away. So an error is a warning.
    """
    if not os.environ.get("IOT_POSTGRES_URL") and not os.environ.get("IOT_POSTGRES_URL_FILE"):
        return
    from .stores import open_stores  # noqa: PLC0415 -- a file of tokens needs no stores

    try:
        with open_stores("tokens") as stores:
            stores.audit(event)
    except IotError as error:
        print(f"warning: the audit log lacks this change: {error}", file=sys.stderr)


def _existing(storage: TokenStorage, text: str | None) -> str:
    if text is None:
        raise IotError(f"{storage.name} does not exist; create a token first")
    return text
