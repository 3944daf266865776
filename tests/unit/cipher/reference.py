"""A second implementation of the stored formats, written from docs/formats.md alone.

It imports nothing of this project, so that a mistake in the project or in the document shows.
"""

import hashlib
import hmac
import struct
from collections.abc import Sequence
from itertools import accumulate

import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM


def hkdf(key: bytes, salt: bytes, info: bytes) -> bytes:
    """HKDF-SHA-256 (RFC 5869) with 32 bytes of output: one block."""
    extracted = hmac.digest(salt or bytes(32), key, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")


def decrypt(key: bytes, message: bytes, associated: bytes) -> bytes:
    """Open `nonce 12 | ciphertext | tag 16`."""
    return AESGCM(key).decrypt(message[:12], message[12:], associated)


def encrypt(key: bytes, nonce: bytes, plaintext: bytes, associated: bytes) -> bytes:
    """Seal with a given nonce."""
    return nonce + AESGCM(key).encrypt(nonce, plaintext, associated)


def master_subkey(master: bytes, purpose: str) -> bytes:
    """Derive a transit, wrap or audit key."""
    return hkdf(master, b"", f"iot-sensor {purpose} v1".encode())


def password_root(pepper: bytes, password: bytes, log2_n: int) -> bytes:
    """Return the scrypt of a password."""
    salt = hkdf(pepper, b"", b"iot-sensor scrypt salt v2")
    return scrypt(password, salt, log2_n)


def scrypt(password: bytes, salt: bytes, log2_n: int) -> bytes:
    """Return 32 bytes of scrypt (RFC 7914) with r = 8 and p = 1."""
    memory = 2 ** (log2_n + 11)
    return hashlib.scrypt(password, salt=salt, n=2**log2_n, r=8, p=1, maxmem=memory, dklen=32)


def vault_associated(vault_id: bytes, lookup: bytes, salt: bytes, log2_n: int) -> bytes:
    """Return the associated data of both wraps."""
    return vault_id + lookup + salt + bytes([log2_n])


def unwrap(wrap_key: bytes, inner_key: bytes, wrapped: bytes, associated: bytes) -> bytes:
    """Return the data key of a vault."""
    header, outer = wrapped[:5], wrapped[5:]
    return decrypt(inner_key, decrypt(wrap_key, outer, header + associated), associated)


def wrap(
    wrap_key: bytes, inner_key: bytes, like: bytes, associated: bytes, data_key: bytes
) -> bytes:
    """Wrap a data key with the header and the nonces of `like`."""
    header, outer_nonce = like[:5], like[5:17]
    inner_nonce = decrypt(wrap_key, like[5:], header + associated)[:12]
    inner = encrypt(inner_key, inner_nonce, data_key, associated)
    return header + encrypt(wrap_key, outer_nonce, inner, header + associated)


def open_entry(transit_key: bytes, shard: int, sealed: bytes) -> bytes:
    """Return the content of a sealed entry."""
    header = sealed[:29]
    key = hkdf(transit_key, header[5:21], b"iot-sensor session v1")
    return decrypt(key, sealed[29:], header + struct.pack(">H", shard))


def seal_entry(transit_key: bytes, shard: int, header: bytes, nonce: bytes, entry: bytes) -> bytes:
    """Seal an entry with a given header and nonce."""
    key = hkdf(transit_key, header[5:21], b"iot-sensor session v1")
    return header + encrypt(key, nonce, entry, header + struct.pack(">H", shard))


def decode_entry(content: bytes) -> dict[str, object]:
    """Return the fields of an entry."""
    head = struct.Struct("<BB16s16s32sqI")
    form, packing, vault_id, salt, key, sealed_at, count = head.unpack_from(content)
    assert form in {1, 2}
    columns = form + 1
    body = content[head.size :]
    if packing:
        body = zstandard.decompress(body)
    integers = struct.unpack_from(f"<{columns * count}q", body)
    return {
        "vault_id": vault_id,
        "salt": salt,
        "chunk_key": key,
        "sealed_at": sealed_at,
        "relative": list(integers[:count]),
        "interrogator": list(integers[count : 2 * count]),
        "received": list(integers[2 * count :]) if form == 2 else None,
        "freeform": body[8 * columns * count :].decode("ascii").split("\0"),
    }


def bounds_bytes(bounds: Sequence[int]) -> bytes:
    """Encode the ten bounds of a segment, in the order of the table `segments`."""
    return struct.pack("<9qI", *bounds)


def open_segment(key: bytes, vault_id: bytes, bounds: Sequence[int], payload: bytes) -> bytes:
    """Return the content of an encrypted segment."""
    return decrypt(key, payload[17:], payload[:17] + vault_id + bounds_bytes(bounds))


def seal_segment(
    key: bytes, vault_id: bytes, bounds: Sequence[int], head: bytes, nonce: bytes, content: bytes
) -> bytes:
    """Encrypt a segment with a given head (format and salt) and nonce."""
    return head + encrypt(key, nonce, content, head + vault_id + bounds_bytes(bounds))


def decode_segment(first_id: int, content: bytes) -> dict[str, list[object]]:
    """Return the columns of a segment."""
    data = zstandard.decompress(content)
    form, count, runs = struct.unpack_from("<BII", data)
    at = 9
    columns: dict[str, list[object]] = {}
    if form in {0, 1}:
        received: list[int] = []
        for _ in range(runs):
            moment, length = struct.unpack_from("<qI", data, at)
            received += [moment] * length
            at += 12
        ids = [first_id + 256 * place for place in range(count)]
        if form == 1:
            places = struct.unpack_from(f"<{count}I", data, at)
            at += 4 * count
            ids, received = [ids[i] for i in places], [received[i] for i in places]
        columns = {"ids": list(ids), "received": list(received)}
        names = ["relative", "interrogator"]
    else:
        names = ["ids", "received", "relative", "interrogator"]
    for name in names:
        columns[name] = list(_column(data[at : at + 1 + 8 * count]))
        at += 1 + 8 * count
    columns["freeform"] = list(data[at:].decode("ascii").split("\0"))
    return columns


def _column(data: bytes) -> Sequence[int]:
    count = (len(data) - 1) // 8
    planes = [data[1 + i * count : 1 + (i + 1) * count] for i in range(8)]
    values = struct.unpack(f"<{count}q", bytes(plane[i] for i in range(count) for plane in planes))
    return list(accumulate(values)) if data[0] else values


def open_order(transit_key: bytes, sealed: bytes) -> bytes:
    """Return the content of a sealed compaction order."""
    header = sealed[:21]
    key = hkdf(transit_key, header[5:], b"iot-sensor compaction order v1")
    return decrypt(key, sealed[21:], header)


def open_audit_record(audit_key: bytes, sealed: bytes) -> str:
    """Return the line of an audit record."""
    clear = sealed[: 17 if sealed[0] == 2 else 5]
    return decrypt(audit_key, sealed[len(clear) :], clear + b"iot-sensor audit").decode()


def audit_link(
    chain_key: bytes, head: bytes, previous: bytes, place: tuple[int, int], at: bytes, line: str
) -> bytes:
    """Return the link of an audit record. `place`: sequence and id."""
    message = head + previous + struct.pack(">qq", *place) + at + line.encode()
    return head + hmac.digest(chain_key, message, "sha256")
