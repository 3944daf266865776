"""Requests with an Idempotency-Key: their keys in Redis, their fingerprints and their answers.

Redis stores a request under its Idempotency-Key and the ids of its vaults. So clients with
different passwords may use the same Idempotency-Key, and do not learn of each other.

The fingerprint of a request shows whether a later request with the same key has the same readings.
It covers the readings as they are stored, not the bytes of the body. So a client may repeat a
request with another compression, as NDJSON, or with its members in another order.

The fingerprint has an HMAC for each vault, under the vault's data key. So a guess of a reading
can't be tested with a copy of Redis, even together with the keyring.
"""

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from iot_api.limits.clients import Client
from iot_cipher.encryption import EntryName, OpenVault
from iot_models.errors import IdempotencyKeyReusedError, InvalidRequestError, UnavailableError
from iot_models.names import KeyNames
from iot_stores.append_conditions import RememberedRequest

from .parser import Batch
from .receipts import decode_receipt, encode_list, encode_receipt

CLIENTS_SHARE = 4
"""One client may have at most a quarter of the remembered requests. A client behind an untrusted
proxy may invent addresses, and would use up the whole limit if each address counted as one client.
So all clients behind an untrusted proxy count as one client."""
_KEY = re.compile(r"[ -~]{1,255}")
_QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])+)"')
"""The header as a quoted string of RFC 8941, as draft-ietf-httpapi-idempotency-key-header says."""
_ANSWER = re.compile(r"(\d{1,18}) ([\w=-]+)(?: ([\w-]+))?", re.ASCII)
_ESCAPE = re.compile(r"\\(.)")
_VERSION = "2"
"""First character of a fingerprint. If a later release parses readings in another way, the same
request gets another fingerprint. That release must change this version: fingerprints of different
versions are not compared, so a request that is repeated after the upgrade is not refused."""
_PART_BYTES = 12
"""Bytes of a vault's part of a fingerprint. A multiple of 3, so that base64 needs no padding."""
_PART = re.compile(f".{{{_PART_BYTES * 4 // 3}}}")


class DamagedAnswerError(UnavailableError):
    """The answer that Redis holds for an earlier request is damaged."""


class IdempotencyKey(NamedTuple):
    """The Idempotency-Key of a request, in two forms: without quotes, and as it was sent."""

    text: str
    """The key without quotes: `"abc"` and `abc` are the same key."""
    as_sent: str
    """The key as the client sent it, with any quotes. Earlier versions store requests under this
    form."""


@dataclass(frozen=True, slots=True)
class FirstAnswer:
    """The answer to the first request with a key."""

    count: int
    """Number of readings in the request."""
    entries: tuple[EntryName, ...]
    """The entries of the request. Earlier versions remembered only the last one in each shard."""


@dataclass(frozen=True, slots=True)
class KeyedRequest:
    """A request with an Idempotency-Key."""

    names: tuple[str, ...]
    """The names of the Redis keys that may hold the request. This process stores the request under
    the first name; processes of other versions use one of the other names."""
    parts: Mapping[bytes, str]
    """The fingerprint's part for each vault id: a hash of the readings for this vault. Empty while
    processes of version 0.1 may run, because they can't read an answer with a fingerprint."""

    @property
    def fingerprint(self) -> str:
        """Distinguishes requests with the same Idempotency-Key and vaults."""
        return "".join([_VERSION, *(part for _, part in sorted(self.parts.items()))])

    def encode_answer(self, count: int, entries: Sequence[EntryName]) -> bytes:
        """Encode what Redis remembers of the request.

        `count` is the number of readings. `entries` are for a receipt. The result has the
        fingerprint if the request has `parts`. Otherwise version 0.1 can read the result.
        """
        if self.parts:
            return f"{count} {encode_receipt(entries)} {self.fingerprint}".encode()
        return f"{count} {encode_list(entries)}".encode()

    def decode_answer(self, answer: bytes) -> FirstAnswer:
        """Return the first answer to this request from `answer`, the bytes that Redis remembers.

        Raises:
            IdempotencyKeyReusedError: the remembered request has other readings. This is
                detected only if both requests have fingerprints of the current version.
            DamagedAnswerError: another program has overwritten the answer.
        """
        return self.decode_attempt(answer, self.parts)

    def decode_attempt(self, answer: bytes, vault_ids: Iterable[bytes]) -> FirstAnswer:
        """Return the answer to an earlier attempt at this request, under the vaults `vault_ids`.

        Raises:
            IdempotencyKeyReusedError: the earlier attempt had other readings for a vault of this
                request. Detected only if both attempts have fingerprints of the current version.
            DamagedAnswerError: another program has overwritten the answer.
        """
        first, fingerprint = _decoded(answer)
        if fingerprint.startswith(_VERSION):
            parts = _PART.findall(fingerprint, 1)
            for vault_id, part in zip(sorted(set(vault_ids)), parts, strict=False):
                if self.parts.get(vault_id, part) != part:
                    raise IdempotencyKeyReusedError(
                        "Idempotency-Key: an earlier request with this key has other readings; "
                        "nothing was stored, send these readings with a new key"
                    )
        return first


@dataclass(frozen=True, slots=True)
class IdempotencyPolicy:
    """How requests with an Idempotency-Key are remembered."""

    names: KeyNames
    seconds: int
    max_requests: int
    """Limit of requests that are remembered at a time."""

    def request(
        self,
        key: IdempotencyKey,
        vaults: Sequence[OpenVault],
        batches: Sequence[Batch],
        *,
        old_processes_may_run: bool,
    ) -> KeyedRequest:
        """Return the `KeyedRequest` for the readings of `batches`. Batch n belongs to vault n.

        If API processes of version 0.1 may run (`old_processes_may_run`), the request is stored
        under the Redis key that they look for, and without a fingerprint.
        """
        *names, first = self.names_of(key, [vault.id_bytes for vault in vaults])
        if old_processes_may_run:
            return KeyedRequest((first, *names), {})
        hashes: dict[bytes, list[bytes]] = {}
        for vault, batch in zip(vaults, batches, strict=True):
            # Two forms of a password in Unicode have the same vault.
            hashes.setdefault(vault.id_bytes, []).append(_hash(key, vault, batch))
        parts = {vault_id: _part(found) for vault_id, found in hashes.items()}
        return KeyedRequest((*names, first), parts)

    def names_of(self, key: IdempotencyKey, vault_ids: Sequence[bytes]) -> list[str]:
        """Return the names of the Redis keys that may hold a request.

        The last name is the one that version 0.1 uses.
        """
        digests = [request_digest(text, vault_ids) for text in dict.fromkeys(key)]
        digests.append(_first_request_digest(key.as_sent, vault_ids))
        return list(map(self.names.remembered_request, digests))

    def remembered(
        self, request: KeyedRequest, answer: bytes, client: Client, *, earlier: str = ""
    ) -> RememberedRequest:
        """Return what Redis must store to remember a request and its encoded answer.

        Redis also counts the remembered requests of `client`, and limits their number. `earlier` is
        the Redis key of an earlier attempt that has appended a part of the readings.
        """
        return RememberedRequest(
            request.names,
            self.seconds,
            answer,
            self.max_requests,
            self.names.remembered_of_client(client.sender),
            max(1, self.max_requests // CLIENTS_SHARE),
            earlier,
        )


def _decoded(answer: bytes) -> tuple[FirstAnswer, str]:
    """Decode a result of `KeyedRequest.encode_answer`: the answer, and the fingerprint or ""."""
    found = _ANSWER.fullmatch(answer.decode("ascii", errors="replace"))
    try:
        entries = decode_receipt(found[2]) if found else []
    except InvalidRequestError:
        entries = []
    if not found or not entries:
        raise DamagedAnswerError(
            "Redis held a damaged answer to an earlier request with this Idempotency-Key; nothing "
            "was stored, try again"
        )
    return FirstAnswer(int(found[1]), tuple(entries)), found[3] or ""


def parse_idempotency_key(header: str) -> IdempotencyKey:
    """Parse the header `Idempotency-Key`, plain or as a quoted string.

    Raises:
        InvalidRequestError: the key is empty, too long, or has characters that are not printable
            ASCII.
    """
    quoted = _QUOTED.fullmatch(header)
    text = _ESCAPE.sub(r"\1", quoted[1]) if quoted else header
    if not _KEY.fullmatch(text):
        raise InvalidRequestError("Idempotency-Key: must be 1 to 255 printable ASCII characters")
    return IdempotencyKey(text, header)


def request_digest(key: str, vault_ids: Iterable[bytes]) -> bytes:
    """Return the digest that identifies a request in Redis.

    The Idempotency-Key and each vault id are hashed with their lengths, so that different requests
    never hash the same bytes.
    """
    parts = [key.encode(), *sorted(vault_ids)]
    return _digest(b"".join(b"%d:%b" % (len(part), part) for part in parts))


def _first_request_digest(key: str, vault_ids: Iterable[bytes]) -> bytes:
    """Return the digest with which version 0.1 identifies a request in Redis."""
    return _digest(key.encode() + b"".join(sorted(vault_ids)))


def _hash(key: IdempotencyKey, vault: OpenVault, batch: Batch) -> bytes:
    """Return an HMAC of the readings of one vault, under the vault's data key.

    The HMAC covers the Idempotency-Key, so the same readings under two Idempotency-Keys have
    different HMACs.
    """
    columns = batch.readings
    times = [columns.relative, columns.interrogator]
    if columns.received is not None:
        times.append(columns.received)
    size = len(columns).to_bytes(8)
    return vault.fingerprint(_digest(key.text.encode()), size, *times, columns.freeform)


def _part(hashes: Iterable[bytes]) -> str:
    # Sorted: the order of the passwords in a request changes nothing that is stored.
    combined = _digest(b"".join(sorted(hashes)))
    return base64.urlsafe_b64encode(combined[:_PART_BYTES]).decode()


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
