"""Sealed entries are identified by session and number, and bound to their shard."""

import base64
import json
import math
import os
import struct
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iot_cipher import encryption
from iot_cipher.encryption import MAX_ABANDONED_NUMBERS, OpenedEntry, Opener, Sealer
from iot_cipher.keyring import Keyring, KeyringFile, parse_keyring
from iot_models.errors import DecryptionError
from support.keys import CheckedKeys

RING = Keyring(2, {1: bytes(range(32)), 2: bytes(range(32, 64))}, bytes(32))
MakeText = Callable[..., str]


def sealer_of(ring: Keyring = RING) -> Sealer:
    return Sealer(CheckedKeys(lambda: ring))


def opened(sealed: bytes, shard: int = 3, ring: Keyring = RING) -> OpenedEntry:
    return Opener(lambda: ring).open(shard, sealed)


@given(st.integers(0, 2**16 - 1), st.binary(max_size=500))
def test_round_trip(shard: int, content: bytes) -> None:
    assert opened(sealer_of().seal(shard, content), shard).content == content


def test_the_header_of_a_sealed_entry() -> None:
    sealed = sealer_of().seal(3, b"content")
    version, key_id, session, number = struct.unpack_from(">BI16sQ", sealed)
    assert (version, key_id, number) == (1, 2, 1)
    assert session == opened(sealed).session
    assert len(sealed) == 29 + 12 + len(b"content") + 16


def test_each_shard_has_its_own_numbers_from_one() -> None:
    sealer = sealer_of()
    shards = [3, 3, 5, 3, 0, 5, 3]
    entries = [opened(sealer.seal(shard, b""), shard) for shard in shards]
    assert [entry.number for entry in entries] == [1, 2, 1, 3, 1, 2, 4]
    assert len({entry.session for entry in entries}) == 1


def test_threads_share_a_session_but_no_number() -> None:
    sealer = sealer_of()
    sealer.seal(3, b"")
    with ThreadPoolExecutor(8) as pool:
        entries = [opened(each) for each in pool.map(lambda _: sealer.seal(3, b""), range(500))]
    assert sorted(entry.number for entry in entries) == list(range(2, 502))
    assert len({entry.session for entry in entries}) == 1


def test_a_renewed_session_numbers_from_one() -> None:
    sealer = sealer_of()
    first = opened(sealer.seal(3, b""))
    sealer.renew()
    second = opened(sealer.seal(3, b""))
    assert (first.number, second.number) == (1, 1)
    assert first.session != second.session


def test_a_session_ends_after_many_abandoned_entries() -> None:
    sealer = sealer_of()
    sessions = []
    for _ in range(2 * MAX_ABANDONED_NUMBERS):
        sessions.append(opened(sealer.seal(3, b"")).session)
        sealer.abandon_numbers(1)
    assert len(set(sessions)) == 2
    assert sessions == sorted(sessions, key=sessions.index)
    sealer.abandon_numbers(MAX_ABANDONED_NUMBERS)
    assert opened(sealer.seal(3, b"")).session not in sessions


def test_two_processes_never_share_a_session() -> None:
    assert opened(sealer_of().seal(3, b"")).session != opened(sealer_of().seal(3, b"")).session


def test_a_forked_process_starts_a_new_session() -> None:
    sealer = sealer_of()
    before = opened(sealer.seal(3, b"before"))
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:  # the child must leave by _exit, or pytest continues in both processes
        try:
            os.write(write_end, sealer.seal(3, b"child"))
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        in_child = opened(pipe.read())
    assert os.waitpid(child, 0)[1] == 0
    after = opened(sealer.seal(3, b"after"))
    assert (in_child.content, in_child.number) == (b"child", 1)
    assert in_child.session != before.session
    assert (after.session, after.number) == (before.session, 2)


def test_a_new_primary_key_starts_a_new_session(keyring_text: MakeText) -> None:
    rings = [
        parse_keyring(keyring_text(primary=1, keys=(1,))),
        parse_keyring(keyring_text(primary=2, keys=(1, 2))),
    ]
    now = 0
    sealer = Sealer(CheckedKeys(lambda: rings[now]))
    first = sealer.seal(3, b"old")
    now = 1
    second = sealer.seal(3, b"new")
    assert struct.unpack_from(">I", second, 1) == (2,)
    assert opened(second, ring=rings[1]).number == 1
    assert opened(first, ring=rings[1]).content == b"old"  # entries in transit still open


def test_keys_are_read_again_when_a_check_is_due(
    tmp_path: Path, keyring_text: MakeText, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "keyring.json"
    path.write_text(keyring_text(primary=1, keys=(1,)))
    file = KeyringFile(path)
    sealer = Sealer(file)
    path.write_text(keyring_text(primary=2, keys=(1, 2)))
    assert sealer.seal(3, b"")[4] == 1
    monkeypatch.setattr(file, "check_at", time.monotonic())
    assert sealer.seal(3, b"")[4] == 2


def test_keys_that_another_caller_read_again_are_used_at_once(
    tmp_path: Path, keyring_text: MakeText
) -> None:
    """A process that reports a new primary key must not seal with the old one any more."""
    path = tmp_path / "keyring.json"
    path.write_text(keyring_text(primary=1, keys=(1,)))
    now = 0.0
    file = KeyringFile(path, clock=lambda: now)
    file.check_at = math.inf
    sealer = Sealer(file)
    sealer.seal(3, b"")
    path.write_text(keyring_text(primary=2, keys=(1, 2)))
    now = file.check_at
    assert file.current().primary_id == 2
    file.check_at = math.inf
    assert sealer.seal(3, b"")[4] == 2


def test_a_key_added_to_the_keyring_keeps_the_session(
    keyring_text: MakeText,
) -> None:
    rings = [
        parse_keyring(keyring_text(primary=1, keys=(1,))),
        parse_keyring(keyring_text(primary=1, keys=(1, 2))),
    ]
    now = 0
    sealer = Sealer(CheckedKeys(lambda: rings[now]))
    sealer.seal(3, b"")
    now = 1
    assert opened(sealer.seal(3, b""), ring=rings[1]).number == 2


def test_a_different_key_with_the_same_id_starts_a_new_session(keyring_text: MakeText) -> None:
    rings = [parse_keyring(keyring_text(seed=seed)) for seed in (0, 99)]
    now = 0
    sealer = Sealer(CheckedKeys(lambda: rings[now]))
    sealer.seal(3, b"")
    now = 1
    entry = opened(sealer.seal(3, b"new"), ring=rings[1])
    assert (entry.content, entry.number) == (b"new", 1)


def test_a_retired_key_opens_no_entry_of_a_known_session(keyring_text: MakeText) -> None:
    rings = [
        parse_keyring(keyring_text(primary=1, keys=(1,))),
        parse_keyring(keyring_text(primary=2, keys=(2,))),
    ]
    now = 0
    opener = Opener(lambda: rings[now])
    sealed = Sealer(CheckedKeys(lambda: rings[0])).seal(3, b"content")
    assert opener.open(3, sealed).content == b"content"
    now = 1
    with pytest.raises(DecryptionError, match="no master key 1"):
        opener.open(3, sealed)


def test_a_session_ends_at_the_limit_of_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encryption, "ENTRIES_PER_SESSION", 3)
    sealer = sealer_of()
    entries = [opened(sealer.seal(3, b"")) for _ in range(7)]
    assert [entry.number for entry in entries] == [1, 2, 3, 1, 2, 3, 1]
    assert len({entry.session for entry in entries}) == 3


def test_a_session_ends_before_the_ledger_forgets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encryption, "SESSION_SECONDS", 0.0)
    sealer = sealer_of()
    entries = [opened(sealer.seal(3, b"")) for _ in range(3)]
    assert [entry.number for entry in entries] == [1, 1, 1]


def test_nonces_and_sessions_never_repeat() -> None:
    sealer = sealer_of()
    assert len({sealer.seal(3, b"")[29:41] for _ in range(3000)}) == 3000
    sessions = set()
    for _ in range(300):
        sealer.renew()
        sessions.add(sealer.seal(3, b"")[5:21])
    assert len(sessions) == 300


def test_any_changed_byte_is_a_decryption_error() -> None:
    sealed = sealer_of().seal(3, b"content")
    for at in range(len(sealed)):
        for bit in (1, 2, 3, 128):
            with pytest.raises(DecryptionError):
                opened(sealed[:at] + bytes([sealed[at] ^ bit]) + sealed[at + 1 :])


def test_truncation_or_extension_is_a_decryption_error() -> None:
    sealed = sealer_of().seal(3, b"content")
    for length in range(len(sealed)):
        with pytest.raises(DecryptionError):
            opened(sealed[:length])
    with pytest.raises(DecryptionError):
        opened(sealed + b"\0")


@pytest.mark.parametrize("shard", [0, 2, 4, 259, 65_535])
def test_an_entry_moved_to_another_shard_is_a_decryption_error(shard: int) -> None:
    sealed = sealer_of().seal(3, b"content")
    with pytest.raises(DecryptionError):
        opened(sealed, shard)


@given(st.binary(max_size=100))
def test_random_bytes_are_a_decryption_error(data: bytes) -> None:
    for sealed in (data, b"\1\0\0\0\2" + data):
        with pytest.raises(DecryptionError):
            opened(sealed)


def test_entries_do_not_open_with_the_key_of_another_session() -> None:
    one, other = sealer_of().seal(3, b"one"), sealer_of().seal(3, b"other")
    with pytest.raises(DecryptionError):
        opened(one[:29] + other[29:])


def test_failures_carry_no_key(keyring_text: MakeText) -> None:
    text = keyring_text(primary=2, keys=(1, 2))
    ring = parse_keyring(text)
    sealed = sealer_of(ring).seal(3, b"content of an entry")
    keys = [base64.b64decode(key) for key in json.loads(text)["keys"].values()]
    keys += [ring.transit_key(1), ring.transit_key(2), b"content of an entry"]
    for broken in (b"", sealed[:-1], b"\1\0\0\0\t" + sealed[5:]):
        with pytest.raises(DecryptionError) as caught:
            opened(broken, ring=ring)
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None or caught.value.__suppress_context__
        told = "".join(traceback.format_exception(caught.value)) + repr(caught.value.details)
        for key in keys:
            assert key.hex() not in told
            assert repr(key)[2:-1] not in told
            assert base64.b64encode(key).decode() not in told
