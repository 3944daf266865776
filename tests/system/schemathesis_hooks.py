"""Hooks of schemathesis."""

from typing import Any

import schemathesis

_number = iter(range(2**32))

# NDJSON is sent as the text that it is.
schemathesis.serializer.alias("application/x-ndjson", "text/plain")


@schemathesis.hook
def before_call(
    _: schemathesis.HookContext, case: schemathesis.Case[Any], __: dict[str, Any]
) -> None:
    """Send each request from another address and with another key: the service holds errors back by
    address, and refuses a key with other readings.
    """
    number = next(_number)
    address = f"2001:db8:{number >> 16:x}:{number & 0xFFFF:x}::1"
    case.headers["X-Forwarded-For"] = address
    if "Idempotency-Key" in case.headers:
        case.headers["Idempotency-Key"] = f"key-{number}"
