"""The form of the records of the audit log."""

import json

import pytest

from iot_models.audit_event import AuditEvent, AuditKind, audit_event, describe, parse_event


def test_the_form_of_a_record() -> None:
    event = AuditEvent(
        AuditKind.PASSWORD_CHANGED, {"vault": "v", "token": "ops"}, "2026-11-28T03:50:00.123Z"
    )
    assert event.encode() == (
        '{"event":"password_changed","time":"2026-11-28T03:50:00.123Z","vault":"v","token":"ops"}'
    )


@pytest.mark.parametrize("kind", AuditKind)
def test_each_kind_can_be_parsed_and_described(kind: AuditKind) -> None:
    line = audit_event(kind, vault="v", count=3).encode()
    parsed = parse_event(line)
    assert parsed is not None
    assert (parsed["event"], parsed["vault"], parsed["count"]) == (kind, "v", 3)
    assert describe(line)
    assert "{" not in describe(line)


def test_sentences_stay_as_they_were() -> None:
    event = audit_event(AuditKind.SEGMENTS_EXPIRED, segments=5, days=30)
    assert describe(event.encode()) == (
        "retention deleted 5 segments received more than 30 days ago"
    )
    event = audit_event(AuditKind.ENTRY_SET_ASIDE, entry="1-0", shard=2, reason="bad {x}")
    assert describe(event.encode()) == "entry 1-0 of shard 2 was set aside: bad {x}"


def test_other_kinds_are_described_by_their_fields() -> None:
    event = audit_event(AuditKind.READ, token="ops", vault="v", readings=3, cursor=None)
    assert describe(event.encode()) == "read token=ops vault=v readings=3"
    assert describe('{"event":"of_a_later_version","time":"t","x":1}') == "of_a_later_version x=1"


@pytest.mark.parametrize(
    "line",
    ["entry 1-0 of shard 2 was set aside: {}", "", "{}", '{"event":', '{"event":1', "[1]"],
)
def test_other_lines_are_sentences(line: str) -> None:
    assert parse_event(line) is None
    assert describe(line) == line


def test_a_long_field_is_cut() -> None:
    line = audit_event(AuditKind.ENTRY_SET_ASIDE, reason="x" * 100_000).encode()
    assert len(json.loads(line)["reason"]) == 500
