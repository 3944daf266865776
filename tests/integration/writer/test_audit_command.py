"""`iot-sensor audit verify|export|accept`, and the records of `iot-sensor tokens`."""

import json
from pathlib import Path

import pytest

from integration.writer.audit_records import chain, record
from iot_models.audit_event import describe
from iot_tools.cli.main import main
from iot_writer.writer import Writer
from support.keys import KEYS

pytestmark = pytest.mark.usefixtures("command_environment")


def _head(writer: Writer) -> str:
    return str(writer.stores.audit_head.read())


def test_verify_tells_the_head_of_a_whole_log(
    writer: Writer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", "verify"]) == 0
    told = capsys.readouterr().out
    assert told == "the audit log is whole: head none; records not chained yet: 0\n"
    record(writer, 2)
    chain(writer)
    record(writer, 1)
    assert main(["audit", "verify"]) == 0
    told = capsys.readouterr().out
    assert told == f"the audit log is whole: head {_head(writer)}; records not chained yet: 1\n"


def test_verify_names_the_first_bad_row(writer: Writer, capsys: pytest.CaptureFixture[str]) -> None:
    record(writer, 5)
    chain(writer)
    for number in (2, 4):
        writer.postgres().execute(
            "UPDATE audit_log SET at = at - interval '1 hour' WHERE id = %s", (number,)
        )
    assert main(["audit", "verify"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("record 2 (link 2) does not match its link")


def test_verify_refuses_the_keyring_of_another_installation(
    writer: Writer, capsys: pytest.CaptureFixture[str]
) -> None:
    record(writer, 1)
    chain(writer)
    writer.postgres().execute("UPDATE installation SET keyring = 'of another'")
    assert main(["audit", "verify"]) == 2
    assert "another pepper" in capsys.readouterr().err


def test_verify_compares_with_the_published_head(
    writer: Writer, capsys: pytest.CaptureFixture[str]
) -> None:
    record(writer, 5)
    chain(writer)
    head = _head(writer)
    writer.postgres().execute("DELETE FROM audit_log WHERE id > 3")
    writer.postgres().execute("DELETE FROM audit_chain WHERE sequence > 3")
    assert main(["audit", "verify"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("the records from link 4 on were deleted: the published head is 5:")

    writer.redis.delete(KEYS.audit_head)  # the attacker has Redis, too
    assert main(["audit", "verify"]) == 1
    assert "Redis has no published head" in capsys.readouterr().err
    chain(writer)
    assert main(["audit", "verify"]) == 0
    assert main(["audit", "verify", "--head", head]) == 1  # from a log
    assert "from link 4 on were deleted" in capsys.readouterr().err


def test_verify_refuses_a_damaged_head(writer: Writer, capsys: pytest.CaptureFixture[str]) -> None:
    writer.redis.set(KEYS.audit_head, "5:00")
    assert main(["audit", "verify"]) == 1
    assert "is not the head of an audit chain" in capsys.readouterr().err
    with pytest.raises(SystemExit) as refused:
        main(["audit", "verify", "--head", "5"])
    assert refused.value.code == 2


def test_export_prints_every_record(writer: Writer, capsys: pytest.CaptureFixture[str]) -> None:
    record(writer, 2)
    chain(writer)
    record(writer, 1)
    writer.postgres().execute("UPDATE audit_log SET sealed = 'x', at = 'infinity' WHERE id = 2")
    assert main(["audit", "export"]) == 1
    told = capsys.readouterr()
    assert told.err.startswith("1 records can't be decrypted")
    lines = [json.loads(line) for line in told.out.splitlines()]
    assert [line["log"] for line in lines] == [
        "event 0", "(this record can't be decrypted)", "event 0",
    ]  # fmt: skip
    assert [(line["id"], line["sequence"]) for line in lines] == [(1, 1), (2, 2), (3, None)]
    assert len(lines[0]["link"]) == 74
    assert lines[0]["at"].endswith("Z")
    assert lines[2]["link"] is None


def test_export_sends_no_control_characters_to_the_terminal(
    writer: Writer, capsys: pytest.CaptureFixture[str]
) -> None:
    writer.audit.record(writer.postgres(), "a \x1b[31m b \x9b31m c \u202e ü")
    assert main(["audit", "export"]) == 0
    told = capsys.readouterr().out
    assert told.removesuffix("\n").isascii()
    assert told.removesuffix("\n").isprintable()
    assert json.loads(told)["log"].endswith("c \u202e ü")


def test_a_restored_database_is_accepted_on_record(
    writer: Writer, capsys: pytest.CaptureFixture[str]
) -> None:
    record(writer, 3)
    chain(writer)
    assert main(["audit", "accept"]) == 1
    assert (
        "nothing to accept, because no record is lost: the audit log in Postgres contains the "
        "head published in Redis" in capsys.readouterr().err
    )
    lost = _head(writer)
    writer.postgres().execute("DELETE FROM audit_log WHERE id = 3")
    writer.postgres().execute("DELETE FROM audit_chain WHERE sequence = 3")
    chain(writer)
    assert main(["audit", "verify"]) == 1
    assert main(["audit", "accept"]) == 0
    chain(writer)
    assert main(["audit", "verify"]) == 0
    (*_, (_, _, line)) = writer.audit.latest(writer.postgres(), 10)
    assert describe(line).startswith(
        f"the published head {lost} of the audit log was replaced by 2:"
    )
    assert _head(writer).startswith("3:")


def test_accept_without_a_head(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "accept"]) == 1
    assert "Redis has no published head" in capsys.readouterr().err


def test_changes_of_tokens_are_recorded(
    writer: Writer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tokens.json"
    create = ["tokens", "create", "--file", str(path), "--name", "people", "--scope", "read, audit"]
    assert main(create) == 0
    token = capsys.readouterr().out.strip()
    assert main(["tokens", "revoke", "--file", str(path), "--name", "people"]) == 0
    lines = [line for _, _, line in writer.audit.latest(writer.postgres(), 10)]
    assert [json.loads(line)["scopes"] for line in lines] == ["audit, read"] * 2
    assert list(map(describe, lines)) == [
        f"token people was created in {path} with audit, read",
        f"token people was revoked in {path}",
    ]
    assert not any(token in line for line in lines)


def test_a_token_is_revoked_while_postgres_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tokens.json"
    monkeypatch.setenv("IOT_POSTGRES_URL", "postgresql://127.0.0.1:1/none")
    name = ["--file", str(path), "--name", "lost"]
    assert main(["tokens", "create", *name, "--scope", "read"]) == 0
    assert main(["tokens", "revoke", *name]) == 0
    assert "warning: the audit log lacks this change" in capsys.readouterr().err
    assert '"lost"' not in path.read_text("utf-8")
