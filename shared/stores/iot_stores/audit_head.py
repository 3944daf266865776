"""The head of the audit log's hash chain, and the head that writers publish in Redis.

A chain without its last links is still valid. Only a head that is kept outside Postgres shows that
links are missing.
"""

import re
from typing import NamedTuple, cast

from redis import Redis

from iot_models.names import KeyNames

_FORM = re.compile(r"([1-9][0-9]{0,18}):([0-9a-f]{74})")


class AuditHead(NamedTuple):
    """The last link of the audit log's chain."""

    sequence: int
    link: bytes

    def __str__(self) -> str:
        return f"{self.sequence}:{self.link.hex()}"


def parse_head(text: str) -> AuditHead:
    """Parse a head of the form `<sequence>:<link in hex>`. Raises `ValueError` for other text."""
    found = _FORM.fullmatch(text)
    if found is None:
        raise ValueError(
            f"{text[:100]!r} is not the head of an audit chain: the form is "
            "<number of links>:<74 hex digits>"
        )
    return AuditHead(int(found[1]), bytes.fromhex(found[2]))


class PublishedAuditHead:
    """The head of the audit log that writers publish in Redis."""

    def __init__(self, client: "Redis", names: KeyNames) -> None:
        self._client = client
        self._key = names.audit_head

    def read(self) -> AuditHead | None:
        """Return the published head; None if no head is published.

        Raises:
            ValueError: the value in Redis is not a head: another program wrote it.
            RedisError: Redis can't serve.
        """
        found = cast("bytes | None", self._client.get(self._key))
        return None if found is None else parse_head(found.decode(errors="replace"))

    def publish(self, head: AuditHead | None) -> None:
        """Replace the published head; None removes it. Raises `RedisError` if Redis can't serve."""
        if head is None:
            self._client.delete(self._key)
        else:
            self._client.set(self._key, str(head))
