"""`iot-sensor audit`: verify and export the audit log."""

import argparse
import json
import sys

from iot_models.audit_event import AuditKind, audit_event, describe, parse_event
from iot_models.errors import DecryptionError, IotError
from iot_stores.audit import UNREADABLE, open_record
from iot_stores.audit_chain import current_head, has_link
from iot_stores.audit_check import AuditFaultError, check_audit, export_audit
from iot_stores.audit_head import AuditHead, parse_head
from iot_stores.postgres import Connection

from .stores import CommandStores, open_stores


def add_audit(parser: argparse.ArgumentParser) -> None:
    """Add `audit verify|export|accept`."""
    actions = parser.add_subparsers(required=True, metavar="action")
    verify = actions.add_parser(
        "verify",
        help="check the hash chain; if a row is bad, name the first bad row and exit with 1",
    )
    verify.add_argument(
        "--head",
        type=_head,
        help="compare with this head, from a writer's log, instead of the head in Redis",
    )
    verify.set_defaults(command=_verify)
    export = actions.add_parser(
        "export",
        help="print all records, one JSON object per line; exit with 1 if one can't be read",
    )
    export.set_defaults(command=_export)
    accept = actions.add_parser(
        "accept", help="after a restore of Postgres: publish the head that the database has now"
    )
    accept.set_defaults(command=_accept)


def _head(text: str) -> AuditHead:
    try:
        return parse_head(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _verify(parsed: argparse.Namespace) -> int:
    with open_stores("audit") as stores:
        stores.installation.get_id()  # with another keyring, every record would look changed
        published = parsed.head or _published(stores)
        with stores.connect() as connection:
            checked = check_audit(connection, stores.audit_keys(), published)
    if published is None and checked.head is not None:
        raise AuditFaultError(
            f"the chain is whole up to {checked.head}, but later records may be missing: "
            "Redis has no published head to compare with. To check for them, pass the last head "
            "that a writer logged (--head). A running writer publishes the current head within "
            "seconds; later checks then compare with this head"
        )
    head, pending = checked.head or "none", checked.pending
    print(f"the audit log is whole: head {head}; records not chained yet: {pending}")
    return 0


def _published(stores: CommandStores) -> AuditHead | None:
    try:
        return stores.audit_head.read()
    except ValueError as error:
        name = stores.names.audit_head
        raise AuditFaultError(f"the published head in Redis ({name}) is invalid: {error}") from None


def _export(parsed: argparse.Namespace) -> int:  # noqa: ARG001 -- the signature of all commands
    with open_stores("audit") as stores, stores.connect() as connection:
        keys, unreadable = stores.audit_keys(), 0
        for record in export_audit(connection):
            try:
                line = open_record(keys, record.sealed)
            except DecryptionError:
                line = UNREADABLE
                unreadable += 1
            fields = {
                "id": record.record_id,
                "at": record.at,
                "log": describe(line),
                "event": parse_event(line),
                "sequence": record.sequence,
                "link": None if record.link is None else record.link.hex(),
            }
            sys.stdout.write(json.dumps(fields) + "\n")
    if unreadable:
        raise IotError(
            f"{unreadable} records can't be decrypted: the records were changed, or an audit key "
            "is missing; run `iot-sensor audit verify`"
        )
    return 0


def _accept(parsed: argparse.Namespace) -> int:  # noqa: ARG001 -- the signature of all commands
    with open_stores("audit") as stores:
        stores.require_ownership()
        with stores.connect() as connection:
            given_up = _lost_head(stores, connection)
            head = current_head(connection)
        # Recorded before the change: no head is given up without a trace.
        event = audit_event(
            AuditKind.AUDIT_HEAD_GIVEN_UP, given_up=given_up, head=str(head or "no head")
        )
        stores.audit(event)
        stores.audit_head.publish(head)
        print(f"published the head {head or 'none'} instead of {given_up}")
    return 0


def _lost_head(stores: CommandStores, connection: Connection) -> str:
    """Return the head in Redis, as text, if the audit log in Postgres does not contain it.

    Return "(damaged)" if the head in Redis can't be parsed.

    Raises:
        IotError: Redis has no head; or no record is lost, because the audit log contains the head.
    """
    try:
        published = stores.audit_head.read()
    except ValueError:
        return "(damaged)"
    if published is None:
        raise IotError(
            "nothing to accept: Redis has no published head. A running writer publishes the "
            "current head within seconds"
        )
    if has_link(connection, published):
        raise IotError(
            "nothing to accept, because no record is lost: the audit log in Postgres contains the "
            "head published in Redis"
        )
    return str(published)
