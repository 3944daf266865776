"""Data written by the first version is read by every later version."""

import base64
import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from iot_cipher.encryption import Opener, OpenVault, decode_entry, decrypt_segment
from iot_cipher.keyring import Keyring, parse_keyring
from iot_cipher.vault import VaultRecord, fast_secret, open_vault
from iot_cipher.writer_keys import writer_keys_text
from iot_models.segment import SegmentBounds, decode_segment

FILE = Path(__file__).with_name("golden") / "v1.json"


@pytest.fixture(scope="module")
def golden() -> Any:
    return json.loads(FILE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def ring(golden: Any) -> Keyring:
    return parse_keyring(json.dumps(golden["keyring"]))


@pytest.fixture(scope="module")
def opened(golden: Any, ring: Keyring) -> OpenVault:
    vault = golden["vault"]
    record = VaultRecord(
        vault_id=uuid.UUID(vault["vault_id"]),
        lookup=bytes.fromhex(vault["lookup"]),
        salt=bytes.fromhex(vault["salt"]),
        scrypt_log2_n=vault["scrypt_log2_n"],
        wrapped_key=bytes.fromhex(vault["wrapped_key"]),
    )
    assert record.master_key_id == 2
    secret = fast_secret(ring, golden["password"].encode(), record.scrypt_log2_n)
    return open_vault(ring, record, secret)


def test_derived_keys_are_stable(golden: Any, ring: Keyring) -> None:
    assert ring.primary_id == 2
    assert ring.lookup(golden["password"].encode()).hex() == golden["lookup"]
    assert {
        "transit_1": ring.transit_key(1).hex(),
        "wrap_1": ring.wrap_key(1).hex(),
        "audit_1": ring.audit_key(1).hex(),
    } == golden["derived"]


def test_the_key_file_of_writers_is_stable(golden: Any, ring: Keyring) -> None:
    content = json.loads(writer_keys_text(ring))
    assert (content["version"], content["for"], content["primary"]) == (2, "writer", 2)
    assert content["keys"]["1"] == {
        each: base64.b64encode(bytes.fromhex(golden["derived"][f"{each}_1"])).decode()
        for each in ("transit", "audit")
    }


def test_the_vault_opens(golden: Any, opened: OpenVault) -> None:
    assert str(opened.vault_id) == golden["vault"]["vault_id"]
    assert opened.chunk_key(bytes.fromhex(golden["chunk"]["salt"])).hex() == golden["chunk"]["key"]


def test_shard_of_a_vault_never_changes(opened: OpenVault) -> None:
    # The readings of the vault wait in the stream of that shard.
    assert [opened.shard(shards) for shards in (1, 2, 8, 256)] == [0, 1, 5, 117]


def test_the_sealed_entry_opens(golden: Any, ring: Keyring, opened: OpenVault) -> None:
    entry = golden["entry"]
    found = Opener(lambda: ring).open(entry["shard"], bytes.fromhex(entry["sealed"]))
    assert found.number == entry["number"]
    assert found.session.hex() == entry["sealed"][10:42]
    assert found.content.hex() == entry["content"]
    decoded = decode_entry(found.content)
    assert decoded.vault_id == opened.vault_id.bytes
    assert decoded.chunk_key == opened.chunk_key(decoded.salt)
    assert list(decoded.readings.relative) == [5, -1, 7]


def test_the_encrypted_segment_opens(golden: Any, opened: OpenVault) -> None:
    segment = golden["segment"]
    bounds = SegmentBounds(**segment["bounds"])
    content = decrypt_segment(opened, bounds, bytes.fromhex(segment["payload"]))
    assert content.hex() == segment["content"]
    columns = decode_segment(bounds, content)
    assert list(columns.interrogator) == [-10, 20, 30]
    assert list(columns.ids) == [262403, 262659, 262147]
    assert list(columns.relative) == [-1, 7, 5]
    assert list(columns.freeform) == ["null", '"x"', '{"a": 1}']
