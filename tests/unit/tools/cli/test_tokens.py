"""`iot-sensor tokens` changes a file, which it replaces atomically."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from iot_cipher.tokens import parse_tokens
from iot_models.scopes import Scope
from iot_tools.cli.file_on_disk import FileOnDisk
from iot_tools.cli.main import main


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


def create(path: Path, name: str, scope: str = "ingest") -> int:
    return main(["tokens", "create", "--file", str(path), "--name", name, "--scope", scope])


def revoke(path: Path, name: str) -> int:
    return main(["tokens", "revoke", "--file", str(path), "--name", name])


def test_tokens_are_created_listed_and_revoked(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert create(path, "devices") == 0
    assert create(path, "people", "read, audit") == 0
    devices, people = capsys.readouterr().out.split()
    assert devices not in path.read_text("utf-8")
    found = parse_tokens(path.read_text("utf-8")).find(people.encode())
    assert found is not None
    assert found.scopes == {Scope.READ, Scope.AUDIT}

    assert main(["tokens", "list", "--file", str(path)]) == 0
    told = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [(line[0], line[2]) for line in told] == [
        ("devices", "ingest"),
        ("people", "audit,read"),
    ]
    assert told[1][1] == found.created

    assert revoke(path, "devices") == 0
    assert capsys.readouterr().out == "devices: revoked\n"
    left = parse_tokens(path.read_text("utf-8"))
    assert left.find(devices.encode()) is None
    assert left.find(people.encode()) == found
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_list_without_tokens_says_so(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    create(path, "devices")
    revoke(path, "devices")
    capsys.readouterr()
    assert main(["tokens", "list", "--file", str(path)]) == 0
    assert capsys.readouterr() == ("", "no tokens\n")


def test_repeated_scopes_add_up(path: Path) -> None:
    name = ["--file", str(path), "--name", "devices"]
    assert main(["tokens", "create", *name, "--scope", "read", "--scope", "ingest,audit"]) == 0
    (grant,) = parse_tokens(path.read_text("utf-8")).grants
    assert grant.scopes == {Scope.READ, Scope.INGEST, Scope.AUDIT}


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["create", "--name", "devices", "--scope", "ingest"], 1, "a token named devices ex"),
        (["create", "--name", "My", "--scope", "ingest"], 2, "a token's name must be"),
        (["create", "--name", "new", "--scope", "write"], 2, "unknown scope"),
        (["create", "--name", "new", "--scope", ""], 2, "unknown scope"),
        (["revoke", "--name", "other"], 1, "there is no token of that name"),
    ],
)
def test_a_refused_change_leaves_the_file_as_it_was(
    path: Path,
    arguments: list[str],
    status: int,
    sentence: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    create(path, "devices")
    before, inode = path.read_bytes(), path.stat().st_ino
    capsys.readouterr()
    action, *more = arguments
    assert main(["tokens", action, "--file", str(path), *more]) == status
    told = capsys.readouterr()
    assert told.err.startswith(sentence)
    assert told.out == ""
    assert (path.read_bytes(), path.stat().st_ino) == (before, inode)
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_an_emptied_file_is_not_replaced(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_text("")
    assert create(path, "devices") == 2
    assert "is not JSON of the form" in capsys.readouterr().err
    assert path.read_text() == ""


def test_a_missing_file_is_named(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["list"], ["revoke", "--name", "devices"]):
        action, *more = arguments
        assert main(["tokens", action, "--file", str(path), *more]) == 1
        assert capsys.readouterr().err == f"{path} does not exist; create a token first\n"
    assert not path.exists()
    assert create(path.parent / "no" / "tokens.json", "devices") == 2
    assert "can't be written: No such file or directory" in capsys.readouterr().err


def test_an_invalid_file_is_named_and_not_changed(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for content, sentence in (
        (b"{}", "the file of tokens is not JSON"),
        (b"\xff\xfe", "is not UTF-8"),
    ):
        path.write_bytes(content)
        assert create(path, "devices") == 2
        assert revoke(path, "devices") == 2
        assert main(["tokens", "list", "--file", str(path)]) == 2
        assert capsys.readouterr().err.count(sentence) == 3
        assert path.read_bytes() == content


@pytest.mark.parametrize("action", ["create", "list", "revoke"])
def test_the_option_file_is_required(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    more = {"create": ["--name", "a", "--scope", "read"], "list": [], "revoke": ["--name", "a"]}
    with pytest.raises(SystemExit, match="2"):
        main(["tokens", action, *more[action]])
    assert "--file" in capsys.readouterr().err


def test_an_option_for_a_secret_is_refused_without_it(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    create(path, "devices")
    capsys.readouterr()
    file = ["--file", str(path), "--namespace", "plant"]
    for arguments in (["list"], ["revoke", "--name", "devices"]):
        assert main(["tokens", *arguments, *file]) == 2
        assert capsys.readouterr().err == "--namespace needs --secret\n"
    assert parse_tokens(path.read_text("utf-8")).grants


def test_a_new_file_is_private_and_an_existing_file_keeps_its_mode(path: Path) -> None:
    umask = os.umask(0)
    try:
        create(path, "one")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        path.chmod(0o640)
        create(path, "two")
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
    finally:
        os.umask(umask)


def test_a_file_keeps_its_owner(path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can change the owner of a file")
    create(path, "one")
    os.chown(path, 65532, 65533)
    create(path, "two")
    assert (path.stat().st_uid, path.stat().st_gid) == (65532, 65533)


def test_a_symbolic_link_is_kept(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(path.name)
    create(link, "one")
    create(link, "two")
    assert link.is_symlink()
    assert len(parse_tokens(path.read_text("utf-8")).grants) == 2


def test_concurrent_changes_are_all_stored(path: Path) -> None:
    arguments = [sys.executable, "-m", "iot_tools", "tokens", "create", "--file", str(path)]
    running = [
        subprocess.Popen(
            [*arguments, "--name", f"token-{number}", "--scope", "read"], stdout=subprocess.PIPE
        )
        for number in range(8)
    ]
    made = [each.communicate(timeout=60)[0].strip() for each in running]
    assert [each.returncode for each in running] == [0] * 8
    known = parse_tokens(path.read_text("utf-8"))
    grants = [known.find(token) for token in made]
    assert [grant.name if grant else None for grant in grants] == [f"token-{n}" for n in range(8)]


def test_a_failed_write_leaves_the_file_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    create(path, "one")
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    capsys.readouterr()
    assert create(path, "two") == 2
    told = capsys.readouterr()
    assert told.err == f"{path} can't be written: No space left on device\n"
    assert told.out == ""  # a token that is not stored is not printed
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_stored_token_is_printed_although_the_folder_can_t_be_synced(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse_folders)
    assert create(path, "one") == 0
    token = capsys.readouterr().out.strip()
    assert parse_tokens(path.read_text("utf-8")).find(token.encode()) is not None


def test_an_exception_during_a_change_writes_nothing(path: Path) -> None:
    def fail(text: str | None) -> str:
        raise KeyError(text)

    with pytest.raises(KeyError):
        FileOnDisk(path).change(fail)
    assert not path.exists()
