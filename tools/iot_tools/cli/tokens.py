"""`iot-sensor tokens`: create, list and revoke the bearer tokens of the API."""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from iot_cipher.tokens import new_tokens_text, parse_tokens, with_token, without_token
from iot_models.audit_event import AuditKind, audit_event
from iot_models.errors import IotError

from .audit_trail import record_if_configured
from .file_on_disk import FileOnDisk, StoredText
from .secret_options import add_namespace, refuse_without


def add_tokens(parser: argparse.ArgumentParser) -> None:
    """Add `tokens create|list|revoke`."""
    actions = parser.add_subparsers(required=True, metavar="action")
    create = actions.add_parser("create", help="create a token and print it; it is not shown again")
    create.add_argument(
        "--scope",
        required=True,
        action="append",
        help="ingest, read, audit or admin; for several, use commas or repeat the option",
    )
    create.set_defaults(command=_create)
    listing = actions.add_parser("list", help="list the names and scopes, not the tokens")
    listing.set_defaults(command=_list)
    revoke = actions.add_parser("revoke", help="revoke a token; the API refuses it a second later")
    revoke.set_defaults(command=_revoke)
    for action in (create, revoke):
        action.add_argument("--name", required=True, help="name of the token")
    for action in (create, listing, revoke):
        where = action.add_mutually_exclusive_group(required=True)
        where.add_argument(
            "--file", type=Path, help="the tokens file that IOT_TOKENS_FILE of the API names"
        )
        where.add_argument(
            "--secret", help="Secret of the tokens in the cluster; pods see changes within a minute"
        )
        add_namespace(action)


def _storage(parsed: argparse.Namespace) -> StoredText:
    refuse_without(parsed, "namespace", "secret")
    if parsed.secret is None:
        return FileOnDisk(parsed.file)
    from iot_tools.cluster.secret_text import tokens_in_secret  # noqa: PLC0415 -- slow import

    return tokens_in_secret(parsed.secret, parsed.namespace)


def _create(parsed: argparse.Namespace) -> int:
    scopes = [word.strip() for word in ",".join(parsed.scope).split(",")]
    token = ""

    def add(text: str | None) -> str:
        nonlocal token
        existing = new_tokens_text() if text is None else text
        changed, token = with_token(existing, parsed.name, scopes)
        return changed

    storage = _storage(parsed)
    storage.change(add)
    print(token)
    record_if_configured(
        "tokens",
        audit_event(
            AuditKind.TOKEN_ADDED, name=parsed.name, scopes=_listed(scopes), where=str(storage.name)
        ),
    )
    return 0


def _list(parsed: argparse.Namespace) -> int:
    storage = _storage(parsed)
    grants = parse_tokens(_existing(storage, storage.read())).grants
    if not grants:
        print("no tokens", file=sys.stderr)
    for grant in grants:
        print(f"{grant.name:24}  {grant.created}  {','.join(sorted(grant.scopes))}")
    return 0


def _revoke(parsed: argparse.Namespace) -> int:
    storage = _storage(parsed)
    scopes = ""

    def remove(text: str | None) -> str:
        nonlocal scopes
        existing = _existing(storage, text)
        changed = without_token(existing, parsed.name)
        grants = parse_tokens(existing).grants
        scopes = next(_listed(grant.scopes) for grant in grants if grant.name == parsed.name)
        return changed

    storage.change(remove)
    print(f"{parsed.name}: revoked")
    record_if_configured(
        "tokens",
        audit_event(
            AuditKind.TOKEN_REMOVED, name=parsed.name, scopes=scopes, where=str(storage.name)
        ),
    )
    return 0


def _listed(scopes: Iterable[str]) -> str:
    return ", ".join(sorted(scopes))


def _existing(storage: StoredText, text: str | None) -> str:
    if text is None:
        raise IotError(f"{storage.name} {storage.absence}; create a token first")
    return text
