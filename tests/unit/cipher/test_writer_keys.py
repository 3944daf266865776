"""The keys of writers are derived from the keyring and reveal no other key of the keyring."""

import base64
import json
import pickle
import traceback
from pathlib import Path
from typing import Any

import pytest

from iot_cipher.encryption import Opener, Sealer
from iot_cipher.keyring import Keyring, new_keyring_text, parse_keyring
from iot_cipher.sealed_order import open_order, seal_order
from iot_cipher.writer_keys import (
    WriterKeys,
    WriterKeysFile,
    parse_writer_keys,
    write_writer_keys_file,
    writer_keys_text,
)
from iot_models.errors import DecryptionError, SettingsError
from support.keys import CheckedKeys
from unit.cipher.conftest import MakeText

KEY = base64.b64encode(b"a secret that must not be shown!").decode()
PAIR = {"transit": KEY, "audit": KEY}


def keys_json(**changes: Any) -> str:
    """Return the JSON of a writer's keys, with changes."""
    return json.dumps({"version": 2, "for": "writer", "primary": 1, "keys": {"1": PAIR}, **changes})


@pytest.fixture
def keys(keyring: Keyring) -> WriterKeys:
    """The keys that a writer gets from the keyring."""
    return parse_writer_keys(writer_keys_text(keyring))


def test_writer_keys_are_the_transit_and_audit_keys(keyring: Keyring, keys: WriterKeys) -> None:
    assert (keys.primary_id, keys.key_ids) == (keyring.primary_id, (1, 2))
    for key_id in keyring.key_ids:
        assert keys.transit_key(key_id) == keyring.transit_key(key_id)
        assert keys.audit_key(key_id) == keyring.audit_key(key_id)


def test_the_file_holds_no_other_key(keyring: Keyring) -> None:
    content = json.loads(writer_keys_text(keyring))
    assert set(content) == {"version", "for", "primary", "keys"}
    allowed = {
        base64.b64encode(of(key_id)).decode()
        for of in (keyring.transit_key, keyring.audit_key)
        for key_id in keyring.key_ids
    }
    assert {key for pair in content["keys"].values() for key in pair.values()} == allowed
    assert writer_keys_text(keyring) == writer_keys_text(keyring)


def test_an_unknown_id_is_a_decryption_error(keys: WriterKeys) -> None:
    for of in (keys.transit_key, keys.audit_key):
        with pytest.raises(DecryptionError, match=r"^the writer has no keys for the master key 9$"):
            of(9)


@pytest.mark.parametrize("name", ["lookup", "wrap_key", "_pepper", "_masters"])
def test_a_writer_has_no_master_key_and_no_pepper(name: str, keyring: Keyring) -> None:
    """This holds for a file of writer keys and for a complete keyring."""
    for text in (writer_keys_text(keyring), new_keyring_text()):
        with pytest.raises(AttributeError):
            getattr(parse_writer_keys(text), name)


def test_writer_keys_are_not_shown_or_pickled(keys: WriterKeys) -> None:
    assert repr(keys) == str(keys) == "<WriterKeys>"
    with pytest.raises(TypeError, match="can't be pickled"):
        pickle.dumps(keys)


def test_writer_keys_open_entries_and_orders(keyring: Keyring, keys: WriterKeys) -> None:
    sealed = Sealer(CheckedKeys(lambda: keyring)).seal(3, b"entry")
    assert Opener(lambda: keys).open(3, sealed).content == b"entry"
    assert open_order(keys, seal_order(keyring, b"order")) == b"order"


def test_a_complete_keyring_is_accepted(keyring_text: MakeText) -> None:
    text = keyring_text(primary=2, keys=(1, 2))
    assert parse_writer_keys(text).transit_key(1) == parse_keyring(text).transit_key(1)


def test_the_api_refuses_writer_keys() -> None:
    for text in (keys_json(), keys_json(version=3), '{"for": "writer"}'):
        with pytest.raises(SettingsError, match="use the whole keyring"):
            parse_keyring(text)


FORM = "not JSON of the form"
WRONG = {
    "an unknown field": (keys_json(pepper=KEY), FORM),
    "no keys": (keys_json(keys=None), FORM),
    "an unknown purpose": (keys_json(keys={"1": {**PAIR, "wrap": KEY}}), "exactly the members"),
    "a missing purpose": (keys_json(keys={"1": {"transit": KEY}}), "exactly the members"),
    "a string instead of a pair": (keys_json(keys={"1": KEY}), "exactly the members"),
    "not base64": (keys_json(keys={"1": {**PAIR, "audit": "?" + KEY}}), FORM),
    "too short": (keys_json(keys={"1": {**PAIR, "audit": KEY[:40]}}), "is not 32 bytes long"),
    "an id that is not a number": (keys_json(keys={"x": PAIR}), FORM),
    "01": (keys_json(keys={"01": PAIR}), FORM),
    "the primary as a string": (keys_json(primary="1"), FORM),
    "a duplicate field": (keys_json()[:-1] + ', "primary": 1}', "the keyring is not JSON"),
    "another version": (keys_json(version=3), "version"),
    "primary key missing": (keys_json(primary=2), "primary key 2 is not among its keys"),
    "key id 0": (keys_json(primary=0, keys={"0": PAIR}), "an id outside 1 to"),
    "key id 2**32": (keys_json(keys={"1": PAIR, str(2**32): PAIR}), "an id outside 1 to"),
}


@pytest.mark.parametrize("which", WRONG)
def test_errors_name_the_fault_and_show_no_key(which: str) -> None:
    text, expected = WRONG[which]
    with pytest.raises(SettingsError, match=expected) as caught:
        parse_writer_keys(text)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    told = "".join(traceback.format_exception(caught.value))
    assert KEY[:20] not in told
    assert "a secret that" not in told


def test_a_changed_key_file_is_reloaded(tmp_path: Path) -> None:
    keyring, path, now = tmp_path / "keyring", tmp_path / "writer-keys", 0.0
    keyring.write_text(new_keyring_text(), encoding="utf-8")
    assert write_writer_keys_file(keyring, path)
    assert not write_writer_keys_file(keyring, path), "the keys were written again"
    file = WriterKeysFile(path, clock=lambda: now)
    first = file.current()
    keyring.write_text(new_keyring_text(), encoding="utf-8")
    assert write_writer_keys_file(keyring, path)
    now += WriterKeysFile.CHECK_SECONDS
    assert file.current().transit_key(1) != first.transit_key(1)
    assert not file.current().from_keyring
    path.write_text(new_keyring_text(), encoding="utf-8")
    now += WriterKeysFile.CHECK_SECONDS
    assert file.current().from_keyring


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keyring, path = tmp_path / "keyring", tmp_path / "writer-keys"
    keyring.write_text(new_keyring_text(), encoding="utf-8")
    write_writer_keys_file(keyring, path)
    before = path.read_bytes()
    keyring.write_text(new_keyring_text(), encoding="utf-8")

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_writer_keys_file(keyring, path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2
