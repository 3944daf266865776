"""The keyring is parsed strictly, created once and reloaded when its file changes."""

import base64
import hmac
import itertools
import json
import logging
import os
import stat
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from iot_cipher.keyring import (
    Keyring,
    KeyringFile,
    create_keyring_file,
    new_keyring_text,
    parse_keyring,
)
from iot_models.errors import DecryptionError, SettingsError
from support.clock import Clock

MakeText = Callable[..., str]
KEY = base64.b64encode(b"a secret that nobody may ever see"[:32]).decode()


def keyring_json(**changes: object) -> str:
    content: dict[str, object] = {"version": 1, "primary": 1, "keys": {"1": KEY}, "pepper": KEY}
    return json.dumps(content | changes)


def without(name: str) -> str:
    return json.dumps({k: v for k, v in json.loads(keyring_json()).items() if k != name})


FORM = "not JSON of the form"
WRONG = {
    "empty": ("", FORM),
    "no JSON": (keyring_json()[:-1], FORM),
    "a list": (f'["{KEY}"]', FORM),
    "a string": (f'"{KEY}"', FORM),
    "null": ("null", FORM),
    "too deep": ("[" * 100_000, FORM),
    "no version": (without("version"), FORM),
    "no primary": (without("primary"), FORM),
    "no keys": (without("keys"), FORM),
    "no pepper": (without("pepper"), FORM),
    "another version": (keyring_json(version=2), "version"),
    "key id not a number": (keyring_json(keys={"one": KEY}), FORM),
    "keys as a list": (keyring_json(keys=[KEY]), FORM),
    "an infinite primary": (keyring_json(primary=float("inf")), FORM),
    "primary key missing": (keyring_json(primary=2), "primary key 2 is not among its keys"),
    "keys empty": (keyring_json(keys={}), "primary key 1 is not among its keys"),
    "key id 0": (keyring_json(primary=0, keys={"0": KEY}), "ids are 1 to 4294967295"),
    "key id below 0": (keyring_json(keys={"1": KEY, "-1": KEY}), "ids are 1 to 4294967295"),
    "key id 2**32": (keyring_json(keys={"1": KEY, str(2**32): KEY}), "ids are 1 to 4294967295"),
    "key not base64": (keyring_json(keys={"1": KEY + "!"}), "not base64"),
    "key not ASCII": (keyring_json(keys={"1": KEY[:-1] + "é"}), "not base64"),
    "key a number": (keyring_json(keys={"1": 5}), "not base64"),
    "key null": (keyring_json(keys={"1": None}), "not base64"),
    "key too short": (keyring_json(keys={"1": KEY[:40]}), "not 32 bytes long"),
    "key too long": (keyring_json(keys={"1": base64.b64encode(bytes(33)).decode()}), "not 32 by"),
    "pepper not base64": (keyring_json(pepper="?" + KEY), "not base64"),
    "pepper too short": (keyring_json(pepper=KEY[:40]), "not 32 bytes long"),
}


@pytest.mark.parametrize("which", WRONG)
def test_errors_name_the_fault_and_show_no_key(which: str) -> None:
    text, expected = WRONG[which]
    with pytest.raises(SettingsError, match=expected) as caught:
        parse_keyring(text)
    assert str(caught.value).startswith("the keyring")
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value.details)
    assert KEY[:20] not in told
    assert "a secret that" not in told


def test_a_valid_keyring_is_parsed() -> None:
    other = base64.b64encode(bytes(32)).decode()
    ring = parse_keyring(keyring_json(primary=7, keys={"1": KEY, "7": other, str(2**32 - 1): KEY}))
    assert ring.primary_id == 7
    assert ring.key_ids == (1, 7, 2**32 - 1)
    assert ring.lookup(b"password") == hmac.digest(base64.b64decode(KEY), b"password", "sha256")


def test_each_purpose_and_master_key_has_a_separate_key(keyring: Keyring) -> None:
    made = [
        of(key_id)
        for of in (keyring.transit_key, keyring.wrap_key, keyring.audit_key)
        for key_id in keyring.key_ids
    ]
    assert len(set(made)) == 6
    assert all(len(key) == 32 for key in made)
    assert keyring.transit_key(1) == made[0]  # the same in every call


def test_an_unknown_key_id_is_a_decryption_error(keyring: Keyring) -> None:
    for of in (keyring.transit_key, keyring.wrap_key, keyring.audit_key):
        for _ in range(2):
            with pytest.raises(DecryptionError, match=r"^the keyring has no master key 9$"):
                of(9)


def test_an_unknown_key_id_adds_no_details(keyring: Keyring) -> None:
    with pytest.raises(DecryptionError) as caught:
        keyring.transit_key(9)
    assert caught.value.details == {}


def test_lookup_depends_on_password_and_pepper(keyring: Keyring, keyring_text: MakeText) -> None:
    other = parse_keyring(keyring_text(primary=2, keys=(1, 2), seed=99))
    lookups = {ring.lookup(word) for ring in (keyring, other) for word in (b"", b"a", b"b")}
    assert len(lookups) == 6
    rotated = parse_keyring(keyring_text(primary=3, keys=(3,)))
    assert rotated.lookup(b"a") == keyring.lookup(b"a")  # rotation keeps the pepper


def test_a_new_keyring_is_complete_and_random() -> None:
    made = [json.loads(new_keyring_text()) for _ in range(100)]
    assert parse_keyring(new_keyring_text()).key_ids == (1,)
    assert len({each["keys"]["1"] for each in made} | {each["pepper"] for each in made}) == 200


def test_a_created_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "keyring.json"
    umask = os.umask(0)
    try:
        assert create_keyring_file(path)
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert parse_keyring(path.read_text(encoding="utf-8")).primary_id == 1
    assert list(tmp_path.iterdir()) == [path]


def test_create_never_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "keyring.json"
    path.write_text("mine", encoding="utf-8")
    assert not create_keyring_file(path)
    assert path.read_text(encoding="utf-8") == "mine"


def test_create_never_overwrites_a_file_that_appears_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "keyring.json"
    path.write_text("mine", encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "exists", lambda _: False)  # the file appears right after the check
        assert not create_keyring_file(path)
    assert path.read_text(encoding="utf-8") == "mine"
    assert list(tmp_path.iterdir()) == [path]


def test_concurrent_creates_leave_one_keyring(tmp_path: Path) -> None:
    path = tmp_path / "keyring.json"
    ready = threading.Barrier(8)

    def create(_: int) -> tuple[bool, str]:
        ready.wait()
        made = create_keyring_file(path)
        return made, path.read_text(encoding="utf-8")  # complete in every thread

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(create, range(8)))
    assert [made for made, _ in results].count(True) == 1
    assert len({text for _, text in results}) == 1
    parse_keyring(results[0][1])
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_create_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        create_keyring_file(tmp_path / "keyring.json")
    assert list(tmp_path.iterdir()) == []


class Followed:
    """A keyring file, the `KeyringFile` that reads it, and a manual clock."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self._drafts = itertools.count()
        self.write(text)
        self.clock = Clock(1000.0)
        self.file = KeyringFile(path, clock=self.clock)

    def write(self, text: str) -> None:
        """Replace the file atomically, as Kubernetes does."""
        draft = self.path.with_name(f"draft-{next(self._drafts)}")
        draft.write_text(text, encoding="utf-8")
        draft.replace(self.path)

    def later(self, seconds: float = KeyringFile.CHECK_SECONDS) -> Keyring:
        self.clock.now += seconds
        return self.file.current()


@pytest.fixture
def followed(tmp_path: Path, keyring_text: MakeText) -> Followed:
    return Followed(tmp_path / "keyring.json", keyring_text())


def test_a_changed_file_takes_effect_within_a_second(
    followed: Followed, keyring_text: MakeText
) -> None:
    before = followed.file.current()
    followed.write(keyring_text(primary=2, keys=(1, 2)))
    assert followed.later(0.5) is before
    assert followed.later(0.5).primary_id == 2
    followed.write(keyring_text(primary=2, keys=(2,)))
    after = followed.later()
    assert after.key_ids == (2,)
    assert followed.later() is after  # the file is read once for each change


def test_a_changed_file_of_equal_size_and_time_is_read(
    followed: Followed, keyring_text: MakeText
) -> None:
    before, status = followed.file.current(), followed.path.stat()
    followed.write(keyring_text(seed=99))
    os.utime(followed.path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert followed.path.stat().st_size == status.st_size
    assert followed.later().transit_key(1) != before.transit_key(1)


def test_an_unchanged_file_is_not_read_again(followed: Followed) -> None:
    before = followed.file.current()
    assert followed.later() is before
    assert followed.later() is before


@pytest.mark.parametrize("which", WRONG)
def test_keys_stay_in_use_when_the_file_becomes_invalid(
    which: str, followed: Followed, keyring_text: MakeText, caplog: pytest.LogCaptureFixture
) -> None:
    before = followed.file.current()
    followed.write(WRONG[which][0])
    with caplog.at_level(logging.WARNING):
        assert followed.later() is before
    assert "the changed keyring is ignored" in caplog.text
    assert KEY[:20] not in caplog.text
    followed.write(keyring_text(primary=2, keys=(1, 2)))
    assert followed.later().primary_id == 2


@pytest.mark.parametrize("damage", ["gone", "a directory", "not text"])
def test_keys_stay_in_use_when_the_file_cannot_be_read(
    damage: str, followed: Followed, keyring_text: MakeText, caplog: pytest.LogCaptureFixture
) -> None:
    before = followed.file.current()
    followed.path.unlink()
    if damage == "a directory":
        followed.path.mkdir()
    if damage == "not text":
        followed.path.write_bytes(b"\xff\xfe\xff")
    with caplog.at_level(logging.WARNING):
        assert followed.later() is before
    assert "IOT_KEYRING_FILE can't be read" in caplog.text
    if damage == "a directory":
        followed.path.rmdir()
    followed.write(keyring_text(primary=2, keys=(1, 2)))
    assert followed.later().primary_id == 2


def test_an_invalid_file_is_refused_at_startup(tmp_path: Path) -> None:
    path = tmp_path / "keyring.json"
    with pytest.raises(SettingsError, match=r"^IOT_KEYRING_FILE can't be read: No such file"):
        KeyringFile(path)
    for content, expected in ((b"\xff\xfe", "IOT_KEYRING_FILE can't be read"), (b"{}", FORM)):
        path.write_bytes(content)
        with pytest.raises(SettingsError, match=expected) as caught:
            KeyringFile(path)
        assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_threads_read_complete_keyrings_while_the_file_changes(
    followed: Followed, keyring_text: MakeText
) -> None:
    def look(_: Any) -> bool:
        ring = followed.later()
        return ring.primary_id in ring.key_ids and len(ring.transit_key(ring.primary_id)) == 32

    with ThreadPoolExecutor(8) as pool:
        looks = pool.map(look, range(300))
        for number in range(1, 40):
            followed.write(keyring_text(primary=number, keys=(number,)))
        assert all(looks)
