"""Records changes of tokens and keys in the audit log, if the environment names a Postgres."""

import os
import sys
from collections.abc import Callable

from iot_cipher.keyring import Keyring
from iot_models.audit_event import AuditEvent
from iot_models.errors import IotError


def has_stores() -> bool:
    """Return whether IOT_POSTGRES_URL or IOT_POSTGRES_URL_FILE is set."""
    return bool(os.environ.get("IOT_POSTGRES_URL") or os.environ.get("IOT_POSTGRES_URL_FILE"))


def record_if_configured(
    command: str, event: AuditEvent, keyring: Callable[[], Keyring] | None = None
) -> None:
    """Record a change of tokens or keys in the audit log, if the environment names a Postgres.

    If recording fails, only print a warning. Call this function after the change, so that a token
    can be revoked even while Postgres is unavailable.
    """
    if not has_stores():
        return
    from .stores import open_stores  # noqa: PLC0415 -- a file of tokens needs no stores

    try:
        with open_stores(command, keyring) as stores:
            stores.audit(event)
    except IotError as error:
        print(f"warning: the audit log lacks this change: {error}", file=sys.stderr)
