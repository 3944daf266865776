"""Changes of a keyring's text keep everything else in the text."""

import base64
import json
from collections.abc import Callable
from functools import partial

import pytest

from iot_cipher.chain_keys import BEFORE_FIRST
from iot_cipher.keyring import parse_keyring
from iot_cipher.keyring_changes import (
    MAX_KEY_ID,
    require_removable,
    with_new_key,
    with_primary,
    without_key,
)
from iot_cipher.writer_keys import fingerprints, parse_writer_keys, writer_keys_text
from iot_models.errors import SettingsError

MakeText = Callable[..., str]
LINK = bytes(range(37))


def test_a_new_key_is_random_and_not_primary(keyring_text: MakeText) -> None:
    before = keyring_text(primary=2, keys=(1, 2))
    added = [with_new_key(before) for _ in range(2)]
    for text, key_id in added:
        assert key_id == 3
        ring = parse_keyring(text)
        assert ring.primary_id == 2
        assert set(ring.key_ids) == {1, 2, 3}
        content = json.loads(text)
        del content["keys"]["3"]
        assert content == json.loads(before)
    assert added[0][0] != added[1][0]


def test_a_promoted_key_is_primary(keyring_text: MakeText) -> None:
    before = keyring_text(primary=1, keys=(1, 2))
    after = with_primary(before, 2)
    assert json.loads(after) == json.loads(before) | {"primary": 2}


def test_a_removed_key_is_gone(keyring_text: MakeText) -> None:
    before = keyring_text(primary=2, keys=(1, 2))
    master = json.loads(before)["keys"]["1"]
    after = without_key(before, 1, sequence=3, link=LINK)
    assert master not in after
    content = json.loads(after)
    retired = content.pop("retired")
    assert content == json.loads(keyring_text(primary=2, keys=(2,)))
    chain = base64.b64encode(parse_keyring(before).chain_key(1)).decode()
    assert retired == {"1": {"chain": chain, "sequence": 3, "link": LINK.hex()}}
    assert parse_keyring(after).chain_key(1) == parse_keyring(before).chain_key(1)


def test_the_writers_get_no_retired_key(keyring_text: MakeText) -> None:
    after = without_key(keyring_text(primary=2, keys=(1, 2)), 1, sequence=3, link=LINK)
    text = writer_keys_text(parse_keyring(after))
    assert text == writer_keys_text(parse_keyring(keyring_text(primary=2, keys=(2,))))


def test_the_id_of_a_retired_key_is_not_used_again(keyring_text: MakeText) -> None:
    after = without_key(keyring_text(primary=1, keys=(1, 2)), 2, sequence=0, link=BEFORE_FIRST)
    assert with_new_key(after)[1] == 3


FORM = "the keyring is not JSON of the form"
CHAIN = base64.b64encode(b"c" * 32).decode()


@pytest.mark.parametrize(
    ("retired", "fault"),
    [
        ([], FORM),
        ({"01": {}}, "leading zeros"),
        ({"1": {}}, FORM),
        ({"1": {"chain": "c2hvcnQ=", "sequence": 1, "link": LINK.hex()}}, "`chain` of 32 bytes"),
        ({"1": {"chain": CHAIN, "sequence": -1, "link": LINK.hex()}}, "as `sequence`"),
        ({"1": {"chain": CHAIN, "sequence": 1, "link": "00"}}, "`link` of 37 bytes"),
    ],
)
def test_an_invalid_retired_key_is_refused(
    keyring_text: MakeText, retired: object, fault: str
) -> None:
    content = json.loads(keyring_text(primary=2, keys=(2,))) | {"retired": retired}
    with pytest.raises(SettingsError, match=fault) as caught:
        parse_keyring(json.dumps(content))
    assert caught.value.__context__ is None


def test_a_restored_key_is_not_retired_as_well(keyring_text: MakeText) -> None:
    before = keyring_text(primary=2, keys=(1, 2))
    content = json.loads(without_key(before, 1, sequence=3, link=LINK))
    content["keys"]["1"] = json.loads(before)["keys"]["1"]
    with pytest.raises(SettingsError, match="has the id 1 both under keys"):
        parse_keyring(json.dumps(content))


REMOVE = partial(without_key, sequence=3, link=LINK)


@pytest.mark.parametrize("change", [require_removable, REMOVE])
def test_the_primary_key_is_not_removed(
    keyring_text: MakeText, change: Callable[[str, int], object]
) -> None:
    with pytest.raises(SettingsError, match="master key 1 is primary: promote another key first"):
        change(keyring_text(primary=1, keys=(1, 2)), 1)


@pytest.mark.parametrize("change", [with_primary, require_removable, REMOVE])
def test_an_unknown_key_is_named(
    keyring_text: MakeText, change: Callable[[str, int], object]
) -> None:
    with pytest.raises(SettingsError, match="no master key 3: its keys are 1, 2"):
        change(keyring_text(primary=1, keys=(1, 2)), 3)


def test_the_last_id_is_followed_by_none(keyring_text: MakeText) -> None:
    with pytest.raises(SettingsError, match="no free key id"):
        with_new_key(keyring_text(primary=1, keys=(1, MAX_KEY_ID)))


def test_other_names_in_the_text_are_kept(keyring_text: MakeText) -> None:
    text = json.dumps(json.loads(keyring_text()) | {"comment": "berlin"})
    assert json.loads(with_new_key(text)[0])["comment"] == "berlin"


def test_a_keyring_and_its_writer_keys_have_the_same_fingerprints(keyring_text: MakeText) -> None:
    ring = parse_keyring(keyring_text(primary=1, keys=(1, 2)))
    marks = fingerprints(ring)
    assert marks == fingerprints(parse_writer_keys(writer_keys_text(ring)))
    assert len(set(marks.values())) == 2
    other = fingerprints(parse_keyring(keyring_text(primary=1, keys=(1, 2), seed=5)))
    assert not set(marks.values()) & set(other.values())
