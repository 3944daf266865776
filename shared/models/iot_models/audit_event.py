"""Events of the audit log: a kind and fields, stored as one JSON object.

    {"event": "password_changed", "time": "2026-11-28T03:50:00.123Z", "vault": "<uuid>", ...}

Earlier versions stored sentences, and `parse_event` returns None for them. An event never holds a
password, a token or a reading.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

Value = str | int | bool | None
_MAX_CHARACTERS = 500
"""Maximum length of a text field. A longer text, such as the reason of a dead letter, is cut."""


class AuditKind(StrEnum):
    """The kind of an audit event: docs/audit-log.md lists the fields of each kind."""

    VAULT_CREATED = "vault_created"
    PASSWORD_CHANGED = "password_changed"  # noqa: S105 - no password
    VAULT_ERASED = "vault_erased"
    RANGE_ERASED = "range_erased"
    READ = "read"
    READ_ENDED = "read_ended"
    ACCESS_REFUSED = "access_refused"
    LIMIT_REACHED = "limit_reached"
    TOKEN_ADDED = "token_added"  # noqa: S105 - no token
    TOKEN_CHANGED = "token_changed"  # noqa: S105 - no token
    TOKEN_REMOVED = "token_removed"  # noqa: S105 - no token
    KEY_ADDED = "key_added"
    KEY_PROMOTED = "key_promoted"
    KEY_RETIRED = "key_retired"
    VAULTS_REWRAPPED = "vaults_rewrapped"
    ENTRY_SET_ASIDE = "entry_set_aside"
    DEAD_LETTER_REPLAYED = "dead_letter_replayed"
    DEAD_LETTER_DROPPED = "dead_letter_dropped"
    HELD_ENTRIES_DROPPED = "held_entries_dropped"
    SEGMENTS_EXPIRED = "segments_expired"
    REDIS_CLAIMED = "redis_claimed"
    AUDIT_HEAD_GIVEN_UP = "audit_head_given_up"


# The sentences of `describe`. Other kinds are described by the kind and the fields.
_SENTENCES: Mapping[AuditKind, str] = {
    AuditKind.ENTRY_SET_ASIDE: "entry {entry} of shard {shard} was set aside: {reason}",
    AuditKind.DEAD_LETTER_REPLAYED: "dead letter {letter} was replayed",
    AuditKind.DEAD_LETTER_DROPPED: "dead letter {letter} is dropped: {reason}",
    AuditKind.HELD_ENTRIES_DROPPED: "the held entries of vault {vault} are dropped",
    AuditKind.SEGMENTS_EXPIRED: (
        "retention deleted {segments} segments received more than {days} days ago"
    ),
    AuditKind.TOKEN_ADDED: "token {name} was created in {where} with {scopes}",
    AuditKind.TOKEN_REMOVED: "token {name} was revoked in {where}",
    AuditKind.KEY_ADDED: "master key {key} was added",
    AuditKind.KEY_PROMOTED: "master key {key} becomes primary",
    AuditKind.KEY_RETIRED: "master key {key} is retired",
    AuditKind.REDIS_CLAIMED: "a Redis with the mark of {owner} got the mark of {installation}",
    AuditKind.AUDIT_HEAD_GIVEN_UP: (
        "the published head {given_up} of the audit log was replaced by {head}"
    ),
}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One event of the audit log.

    `time` is in UTC, by the clock of the process that made the event. The event's row in the table
    `audit_log` also has a time by the clock of Postgres.
    """

    kind: AuditKind
    fields: Mapping[str, Value]
    time: str = field(default_factory=_now)

    def encode(self) -> str:
        """Return the event as JSON. This text is encrypted and stored as an audit record."""
        cut = {
            name: value[:_MAX_CHARACTERS] if isinstance(value, str) else value
            for name, value in self.fields.items()
        }
        content = {"event": str(self.kind), "time": self.time, **cut}
        return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def audit_event(kind: AuditKind, **fields: Value) -> AuditEvent:
    """Return an event with the current time."""
    return AuditEvent(kind, fields)


def parse_event(line: str) -> dict[str, Value] | None:
    """Return the fields of an event, including `event` and `time`.

    Return None if the line is a sentence, as earlier versions stored it, or if its JSON has a text
    that is not Unicode (half of a surrogate pair), which could not be encoded again.
    """
    if not line.startswith('{"event":'):
        return None
    try:
        content = json.loads(line)
        json.dumps(content, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def describe(line: str) -> str:
    """Return an audit record as text for people. `line` is the decrypted record.

    Some kinds of events have a sentence. For other kinds, or if a field of the sentence is missing,
    return the kind and the fields, such as `vault_created vault=<uuid>`. If `line` is a sentence of
    an earlier version, return `line`.
    """
    content = parse_event(line)
    if content is None:
        return line
    others = {name: value for name, value in content.items() if name not in {"event", "time"}}
    try:
        sentence = _SENTENCES[AuditKind(str(content["event"]))].format(**others)
        return sentence + _orderer(others)
    except (KeyError, ValueError):
        fields = "".join(f" {name}={value}" for name, value in others.items() if value is not None)
        return f"{content['event']}{fields}"


def _orderer(fields: Mapping[str, Value]) -> str:
    """Return the end of an event's sentence: " (ordered by <token name>@<client address>)".

    If the client sent no token, return " (ordered by <client address>)". If the event has no
    client, return "".
    """
    client, token = fields.get("client"), fields.get("token")
    if client is None:
        return ""
    return f" (ordered by {client})" if token is None else f" (ordered by {token}@{client})"
