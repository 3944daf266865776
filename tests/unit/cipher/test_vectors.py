"""The test vectors of docs/formats.md hold for this project and for a second implementation."""

import base64
import hashlib
import hmac
import json
import struct
import uuid
from pathlib import Path
from typing import Any

import pytest
import zstandard

from iot_cipher.audit_link import ChainedRecord, make_link
from iot_cipher.chain_keys import BEFORE_FIRST
from iot_cipher.encryption import Opener, OpenVault, decode_entry, decrypt_segment
from iot_cipher.keyring import Keyring, parse_keyring
from iot_cipher.sealed_order import open_order
from iot_cipher.tokens import parse_tokens
from iot_cipher.vault import PasswordSecret, VaultRecord, fast_secret, open_vault, scrypt_secret
from iot_cipher.writer_keys import writer_keys_text
from iot_models.compaction_order import decode_order
from iot_models.segment import SegmentBounds, decode_segment
from iot_stores.audit import open_record

from . import reference

Vectors = dict[str, Any]
FILE = Path(__file__).parents[3] / "docs" / "test-vectors.json"
BOUNDS = (
    "first_id", "last_id", "received_min", "received_max", "relative_min", "relative_max",
    "interrogator_min", "interrogator_max", "shard", "count",
)  # fmt: skip


@pytest.fixture(scope="module")
def vectors() -> Vectors:
    content: Vectors = json.loads(FILE.read_text(encoding="utf-8"))
    return content


@pytest.fixture(scope="module")
def keyring(vectors: Vectors) -> Keyring:
    return parse_keyring(json.dumps(vectors["keyring"]))


@pytest.fixture(scope="module")
def password(vectors: Vectors) -> bytes:
    return str(vectors["password"]).encode()


@pytest.fixture(scope="module")
def vault(vectors: Vectors) -> OpenVault:
    return opened(vectors["vault"])


def opened(vector: Vectors) -> OpenVault:
    return OpenVault(uuid.UUID(vector["vault_id"]), bytes.fromhex(vector["data_key"]))


def record_of(vector: Vectors) -> VaultRecord:
    return VaultRecord(
        uuid.UUID(vector["vault_id"]),
        bytes.fromhex(vector["lookup"]),
        bytes.fromhex(vector["salt"]),
        vector["scrypt_log2_n"],
        bytes.fromhex(vector["wrapped_key"]),
    )


def master(vectors: Vectors, key_id: int) -> bytes:
    return base64.b64decode(vectors["keyring"]["keys"][str(key_id)])


def test_derived_keys(vectors: Vectors, keyring: Keyring, password: bytes) -> None:
    derived = vectors["derived"]
    for key_id in (1, 2):
        for purpose, ours in (
            ("transit", keyring.transit_key),
            ("wrap", keyring.wrap_key),
            ("audit", keyring.audit_key),
        ):
            key = reference.master_subkey(master(vectors, key_id), purpose)
            assert key.hex() == derived[purpose][str(key_id)] == ours(key_id).hex()
        audit_key = bytes.fromhex(derived["audit"][str(key_id)])
        chain_key = reference.hkdf(audit_key, b"", b"iot-sensor audit chain v1")
        assert chain_key.hex() == derived["chain"][str(key_id)] == keyring.chain_key(key_id).hex()
    pepper = base64.b64decode(vectors["keyring"]["pepper"])
    salt = reference.hkdf(pepper, b"", b"iot-sensor scrypt salt v2")
    assert salt.hex() == derived["scrypt_salt"] == keyring.scrypt_salt().hex()
    root = reference.password_root(pepper, password, vectors["vault"]["scrypt_log2_n"])
    assert root.hex() == derived["password_root"]
    installation = uuid.UUID(derived["mark"]["installation"])
    mark = reference.hkdf(pepper, installation.bytes, b"iot-sensor keyring mark v1")
    assert mark.hex() == derived["mark"]["mark"] == keyring.mark(installation).hex()


def test_the_keys_of_writers(vectors: Vectors, keyring: Keyring) -> None:
    assert json.loads(writer_keys_text(keyring)) == vectors["writer_keys"]
    for key_id, keys in vectors["writer_keys"]["keys"].items():
        for purpose in ("transit", "audit"):
            assert base64.b64decode(keys[purpose]).hex() == vectors["derived"][purpose][key_id]


def test_a_vault(vectors: Vectors, keyring: Keyring, password: bytes) -> None:
    vector, root = vectors["vault"], bytes.fromhex(vectors["derived"]["password_root"])
    lookup = reference.hkdf(root, b"", b"iot-sensor lookup v2")
    assert lookup.hex() == vector["lookup"]
    inner_key = reference.hkdf(root, bytes.fromhex(vector["salt"]), b"iot-sensor password key v2")
    check_vault(vectors, vector, inner_key)
    secret = scrypt_secret(keyring, password, vector["scrypt_log2_n"])
    check_opens(keyring, vector, secret)


def test_a_vault_of_format_1(vectors: Vectors, keyring: Keyring, password: bytes) -> None:
    vector = vectors["vault_format_1"]
    pepper = base64.b64decode(vectors["keyring"]["pepper"])
    lookup = hmac.digest(pepper, password, "sha256")
    assert lookup.hex() == vector["lookup"]
    salt = bytes.fromhex(vector["salt"])
    check_vault(vectors, vector, reference.scrypt(password, salt, vector["scrypt_log2_n"]))
    check_opens(keyring, vector, fast_secret(keyring, password, vector["scrypt_log2_n"]))


def check_vault(vectors: Vectors, vector: Vectors, inner_key: bytes) -> None:
    record = record_of(vector)
    key_id = int.from_bytes(record.wrapped_key[1:5], "big")
    wrap_key = bytes.fromhex(vectors["derived"]["wrap"][str(key_id)])
    associated = reference.vault_associated(
        record.vault_id.bytes, record.lookup, record.salt, record.scrypt_log2_n
    )
    data_key = reference.unwrap(wrap_key, inner_key, record.wrapped_key, associated)
    assert data_key.hex() == vector["data_key"]
    again = reference.wrap(wrap_key, inner_key, record.wrapped_key, associated, data_key)
    assert again == record.wrapped_key


def check_opens(keyring: Keyring, vector: Vectors, secret: PasswordSecret) -> None:
    record = record_of(vector)
    assert secret.lookup == record.lookup
    salt = bytes(16)
    assert open_vault(keyring, record, secret).chunk_key(salt) == opened(vector).chunk_key(salt)


def test_shards_and_chunk_keys(vectors: Vectors, vault: OpenVault) -> None:
    number = int.from_bytes(vault.vault_id.bytes[:8], "big")
    for shards, shard in vectors["shards"].items():
        assert number % int(shards) == shard == vault.shard(int(shards))
    salt, data_key = bytes.fromhex(vectors["chunk"]["salt"]), vectors["vault"]["data_key"]
    key = reference.hkdf(bytes.fromhex(data_key), salt, b"iot-sensor chunk v1")
    assert key.hex() == vectors["chunk"]["key"] == vault.chunk_key(salt).hex()


@pytest.mark.parametrize("name", ["entry", "entry_format_2"])
def test_an_entry(name: str, vectors: Vectors, keyring: Keyring, vault: OpenVault) -> None:
    vector = vectors[name]
    sealed, content = bytes.fromhex(vector["sealed"]), bytes.fromhex(vector["content"])
    transit_key = bytes.fromhex(vectors["derived"]["transit"]["2"])
    assert reference.open_entry(transit_key, vector["shard"], sealed) == content
    again = reference.seal_entry(transit_key, vector["shard"], sealed[:29], sealed[29:41], content)
    assert again == sealed
    found = Opener(lambda: keyring).open(vector["shard"], sealed)
    assert found.content == content
    entry, ours = reference.decode_entry(content), decode_entry(content)
    assert entry["vault_id"] == vault.vault_id.bytes == ours.vault_id
    assert entry["chunk_key"] == bytes.fromhex(vectors["chunk"]["key"]) == ours.chunk_key
    for field in ("sealed_at", "relative", "interrogator", "freeform"):
        assert entry[field] == vector[field]
    assert list(ours.readings.relative) == vector["relative"]
    received = ours.readings.received
    assert entry["received"] == vector.get("received") == (received and list(received))


def test_segments(vectors: Vectors, vault: OpenVault) -> None:
    key, forms = bytes.fromhex(vectors["chunk"]["key"]), set()
    for vector in vectors["segments"]:
        payload, content = bytes.fromhex(vector["payload"]), bytes.fromhex(vector["content"])
        values = [vector["bounds"][name] for name in BOUNDS]
        vault_id = vault.vault_id.bytes
        assert reference.open_segment(key, vault_id, values, payload) == content
        again = reference.seal_segment(key, vault_id, values, payload[:17], payload[17:29], content)
        assert again == payload
        bounds = SegmentBounds(*values)
        assert decrypt_segment(vault, bounds, payload) == content
        columns, ours = (
            reference.decode_segment(values[0], content),
            decode_segment(bounds, content),
        )
        for name in ("ids", "received", "relative", "interrogator", "freeform"):
            assert list(getattr(ours, name)) == columns[name], (vector["form"], name)
        forms.add(zstandard.decompress(content)[0])
    assert forms == {0, 1, 3}


def test_a_compaction_order(vectors: Vectors, keyring: Keyring, vault: OpenVault) -> None:
    vector = vectors["compaction_order"]
    sealed, content = bytes.fromhex(vector["sealed"]), bytes.fromhex(vector["content"])
    transit_key = bytes.fromhex(vectors["derived"]["transit"]["2"])
    assert reference.open_order(transit_key, sealed) == content == open_order(keyring, sealed)
    form, vault_id, targets, sources = struct.unpack_from("<B16sII", content)
    assert (form, vault_id, targets, sources) == (2, vault.vault_id.bytes, 1, 1)
    target = struct.unpack_from("<16s32s", content, 25)
    source = struct.unpack_from("<qq16s32s", content, 25 + 48)
    order = decode_order(content)
    assert target == (order.targets[0].salt, order.targets[0].chunk_key)
    ours = order.sources[0]
    assert source == (ours.first_id, ours.received_min, ours.salt, ours.chunk_key)
    assert len(content) == 25 + 48 + 64


def test_the_audit_log(vectors: Vectors, keyring: Keyring) -> None:
    vector = vectors["audit"]
    for name in ("record", "record_after_a_rotation"):
        sealed = bytes.fromhex(vector[name])
        key_id = str(int.from_bytes(sealed[1:5], "big"))
        audit_key = bytes.fromhex(vectors["derived"]["audit"][key_id])
        assert reference.open_audit_record(audit_key, sealed) == vector["line"]
        assert open_record(keyring, sealed) == vector["line"]
    link, at = bytes.fromhex(vector["link"]), bytes.fromhex(vector["at"])
    chain_key = bytes.fromhex(vectors["derived"]["chain"]["2"])
    place = (vector["sequence"], vector["id"])
    made = reference.audit_link(chain_key, link[:5], bytes(37), place, at, vector["line"])
    record = ChainedRecord(*place, at, vector["line"].encode())
    assert made == link == make_link(keyring, BEFORE_FIRST, record)


def test_a_token(vectors: Vectors) -> None:
    token, file = vectors["token"]["token"], vectors["token"]["tokens.json"]
    (row,) = file["tokens"]
    assert hashlib.sha256(token.encode()).hexdigest() == row["sha256"]
    grant = parse_tokens(json.dumps(file)).find(token.encode())
    assert grant is not None
    assert grant.name == row["name"]
