"""Tokens are stored as hashes, parsed strictly and reloaded when their file changes."""

import hashlib
import json
import logging
import os
import re
import traceback
from pathlib import Path

import pytest

from iot_cipher.tokens import (
    Grant,
    Tokens,
    TokensFile,
    new_token,
    new_tokens_text,
    parse_tokens,
    with_token,
    without_token,
)
from iot_models.errors import IotError, SettingsError
from iot_models.scopes import Scope
from support.clock import Clock

HASH = hashlib.sha256(b"one").hexdigest()
OTHER_HASH = hashlib.sha256(b"two").hexdigest()
CREATED = "2026-11-23T10:00:00Z"
TOKEN = "iot_" + "A1-_" * 10 + "xyz"


def row(**changes: object) -> dict[str, object]:
    given = {"name": "devices", "scopes": ["ingest"], "sha256": HASH, "created": CREATED}
    return given | changes


def document(*rows: object, **changes: object) -> str:
    return json.dumps({"version": 1, "tokens": list(rows)} | changes)


def without(name: str) -> dict[str, object]:
    return {key: value for key, value in row().items() if key != name}


FORM = "not JSON of the form"
WRONG = {
    "empty": ("", FORM),
    "no JSON": (document(row())[:-1], FORM),
    "a list": (json.dumps([row()]), FORM),
    "null": ("null", FORM),
    "too deep": ("[" * 100_000, FORM),
    "another version": (document(version=2), FORM),
    "the version true": (document(version=True), FORM),
    "no version": ('{"tokens": []}', FORM),
    "no tokens": ('{"version": 1}', FORM),
    "an unknown field": (document(more=1), FORM),
    "a duplicate field": ('{"version": 1, "tokens": [], "tokens": []}', FORM),
    "tokens as an object": (document(tokens={"devices": row()}), FORM),
    "a token as a string": (document(HASH), FORM),
    "no name": (document(row(), without("name")), r"token 1 \(counted from 0\): name must be"),
    "a number as a name": (document(row(name=5)), r"token 0 \(counted from 0\): name must be"),
    "a token as a name": (document(row(name=TOKEN)), r"token 0 \(counted from 0\): name must be"),
    "a name with a space": (document(row(name="my devices")), ": name must be"),
    "a name with a line feed": (document(row(name="devices\n")), ": name must be"),
    "a name too long": (document(row(name="d" * 64)), ": name must be"),
    "no scopes": (
        document(without("scopes")),
        "devices must have the fields created, name, scopes, sha256, and no others",
    ),
    "no hash": (document(without("sha256")), "devices must have"),
    "no time of creation": (document(without("created")), "devices must have"),
    "an unknown field of a token": (document(row(token=TOKEN)), "devices must have"),
    "scopes as a string": (document(row(scopes="ingest")), "devices: scopes must be a list"),
    "an empty list of scopes": (document(row(scopes=[])), "devices: scopes must be a list"),
    "scopes that are numbers": (document(row(scopes=[1])), "devices: scopes must be a list"),
    "an unknown scope": (document(row(scopes=["write"])), "devices: unknown scope"),
    "a duplicate scope": (document(row(scopes=["read", "read"])), "the scope read is given twice"),
    "a hash too short": (document(row(sha256=HASH[:-1])), "devices: sha256 must be"),
    "a hash in capitals": (document(row(sha256=HASH.upper())), "devices: sha256 must be"),
    "the token instead of its hash": (document(row(sha256=TOKEN)), "devices: sha256 must be"),
    "an impossible time": (document(row(created="2026-13-01T00:00:00Z")), "created must be a time"),
    "a time without leading zeros": (
        document(row(created="2026-1-1T0:0:0Z")),
        "created must be a time",
    ),
    "a time without a zone": (document(row(created=CREATED[:-1])), "created must be a time"),
    "a number as a time": (document(row(created=0)), "created must be a time"),
    "a duplicate name": (document(row(), row(sha256=OTHER_HASH)), "has the name devices twice"),
    "a duplicate hash": (
        document(row(), row(name="more")),
        "the tokens devices and more have the same sha256",
    ),
}


@pytest.mark.parametrize("which", WRONG)
def test_errors_name_the_fault_and_show_no_secret(which: str) -> None:
    text, expected = WRONG[which]
    with pytest.raises(SettingsError, match=expected) as caught:
        parse_tokens(text)
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value.details)
    for secret in (HASH, HASH.upper(), OTHER_HASH, TOKEN):
        assert secret[:20] not in told


def test_valid_tokens_are_parsed() -> None:
    everything = ["ingest", "read", "audit", "admin"]
    found = parse_tokens(
        document(row(), row(name="a.b-c", scopes=everything, sha256=OTHER_HASH))
    ).grants
    assert found == (
        Grant("devices", frozenset({Scope.INGEST}), bytes.fromhex(HASH), CREATED),
        Grant("a.b-c", frozenset(Scope), bytes.fromhex(OTHER_HASH), CREATED),
    )


def test_a_token_is_found_only_by_its_hash() -> None:
    known = parse_tokens(document(row(), row(name="other", sha256=OTHER_HASH)))
    for presented, name in ((b"one", "devices"), (b"two", "other")):
        grant = known.find(presented)
        assert grant is not None
        assert grant.name == name
    for presented in (b"", b"three", b"on", b"one ", HASH.encode(), bytes.fromhex(HASH)):
        assert known.find(presented) is None
    assert Tokens([]).find(b"one") is None


def test_every_lookup_compares_all_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The duration of a lookup must not reveal the token."""
    text = new_tokens_text()
    made = []
    for number in range(5):
        text, token = with_token(text, f"token-{number}", ["read"])
        made.append(token)
    known, compared = parse_tokens(text), list[bytes]()

    def compare(one: bytes, two: bytes) -> bool:
        compared.append(one)
        return one == two

    monkeypatch.setattr("iot_cipher.tokens.hmac.compare_digest", compare)
    for token in (*made, "none of them"):
        compared.clear()
        known.find(token.encode())
        assert compared == [grant.sha256 for grant in known.grants]


@pytest.mark.parametrize("scope", Scope)
def test_admin_allows_every_scope(scope: Scope) -> None:
    assert Grant("a", frozenset({Scope.ADMIN}), b"", "").allows(scope)
    assert Grant("a", frozenset({scope}), b"", "").allows(scope)
    others = frozenset(Scope) - {scope, Scope.ADMIN}
    assert not Grant("a", others, b"", "").allows(scope)


def test_new_tokens_are_random_and_well_formed() -> None:
    made = {new_token() for _ in range(100)}
    assert len(made) == 100
    assert all(re.fullmatch(r"iot_[A-Za-z0-9_-]{43}", token) for token in made)


def test_tokens_are_added_and_revoked() -> None:
    assert parse_tokens(new_tokens_text()).grants == ()
    one, devices = with_token(new_tokens_text(), "devices", ["ingest"])
    two, people = with_token(one, "people", ["read", "audit"])
    assert devices not in two
    assert people not in two
    found = parse_tokens(two).find(people.encode())
    assert found is not None
    assert found.name == "people"
    assert found.scopes == {Scope.READ, Scope.AUDIT}
    left = parse_tokens(without_token(two, "devices"))
    assert left.find(devices.encode()) is None
    assert left.find(people.encode()) == found


def test_an_existing_token_can_be_added() -> None:
    text, token = with_token(new_tokens_text(), "devices", ["ingest"], token=TOKEN)
    assert token == TOKEN
    assert parse_tokens(text).find(TOKEN.encode()) is not None
    with pytest.raises(
        IotError, match=r"^the token given for more exists already, under another name$"
    ):
        with_token(text, "more", ["ingest"], token=TOKEN)


@pytest.mark.parametrize(
    ("name", "scopes", "token", "sentence"),
    [
        ("", ["read"], None, "a token's name must be"),
        ("Devices", ["read"], None, "a token's name must be"),
        (TOKEN, ["read"], None, "a token's name must be"),
        ("-a", ["read"], None, "a token's name must be"),
        ("new", [], None, "the token new needs a scope"),
        ("new", ["write"], None, "unknown scope"),
        ("new", ["read", "read"], None, "the scope read is given twice"),
        ("new", ["read"], "hunter2", "the token new must be iot_ followed by 43 characters of"),
        (
            "new",
            ["read"],
            TOKEN + "\n",
            "the token new must be iot_ followed by 43 characters of base64url",
        ),
        ("there", ["read"], None, "a token named there exists"),
    ],
)
def test_invalid_tokens_are_not_added(
    name: str, scopes: list[str], token: str | None, sentence: str
) -> None:
    text = document(row(name="there"))
    with pytest.raises(IotError, match=f"^{sentence}") as caught:
        with_token(text, name, scopes, token=token)
    assert TOKEN[:20] not in str(caught.value)


def test_revoking_an_unknown_name_is_an_error() -> None:
    for name in ("more", TOKEN, ""):
        with pytest.raises(IotError, match=r"^there is no token of that name: see `[a-z -]+`$"):
            without_token(document(row()), name)


def test_an_invalid_document_is_not_changed() -> None:
    for text in ("", document(row(), row())):
        with pytest.raises(SettingsError):
            with_token(text, "new", ["read"])
        with pytest.raises(SettingsError):
            without_token(text, "devices")


class Mounted:
    """A Secret as Kubernetes mounts it: symbolic links, of which one is replaced atomically."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "tokens.json"
        self.path.symlink_to("..data/tokens.json")
        self.versions = 0

    def write(self, text: str) -> None:
        """Write the next version of the Secret."""
        self.versions += 1
        version = self.folder / f"..version-{self.versions}"
        version.mkdir()
        (version / "tokens.json").write_text(text, encoding="utf-8")
        os.utime(version / "tokens.json", ns=(0, 0))  # all versions have the same mtime
        draft = self.folder / "..data_tmp"
        draft.symlink_to(version.name)
        draft.replace(self.folder / "..data")


def test_a_changed_secret_is_reloaded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock, mounted = Clock(1000.0), Mounted(tmp_path)
    text, token = with_token(new_tokens_text(), "devices", ["ingest"])
    mounted.write(text)
    file = TokensFile(mounted.path, clock=clock)
    assert file.current().find(token.encode()) is not None
    mounted.write(without_token(text, "devices"))
    clock.now += 0.5
    assert file.current().find(token.encode()) is not None
    clock.now += 0.5
    assert file.current().find(token.encode()) is None
    mounted.write(text)
    clock.now += 1

    for wrong in ("", document(row(), row()), None):
        known = file.current()
        if wrong is None:
            (tmp_path / "..data").unlink()
        else:
            mounted.write(wrong)
        caplog.clear()
        for _ in range(3):
            clock.now += 1
            with caplog.at_level(logging.WARNING):
                assert file.current() is known
        assert known.find(token.encode()) is not None
        (line,) = caplog.messages  # logged once, not every second
        assert line.startswith("the changed list of tokens is ignored: ")
    assert "IOT_TOKENS_FILE can't be read: No such file" in line


def test_an_invalid_file_is_refused_at_startup(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    with pytest.raises(SettingsError, match=r"^IOT_TOKENS_FILE can't be read: No such file"):
        TokensFile(path)
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(SettingsError, match=FORM):
        TokensFile(path)
