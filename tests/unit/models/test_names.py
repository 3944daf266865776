"""Every key and job in Redis has a unique name."""

from hypothesis import given
from hypothesis import strategies as st

from iot_models import names
from iot_models.names import KeyNames
from support.keys import KEYS


def all_names(
    keys: KeyNames, shard: int, vault: bytes, first_id: int, lookup: bytes, address: str
) -> list[str]:
    return [
        keys.audit_head,
        keys.backlog_counters,
        keys.remembered_counts,
        keys.dead_letters,
        keys.dead_letter_ids,
        keys.dead_letter_orders,
        keys.heartbeats,
        keys.job_list,
        keys.stream(shard),
        keys.vault_record(lookup),
        keys.changed_lookup(lookup),
        keys.password_changes,
        keys.hot_index(vault),
        keys.hot_segment(vault, first_id),
        keys.hot_cover(shard),
        keys.hot_hidden(vault),
        keys.compaction_orders,
        keys.compaction_looked(vault),
        keys.compaction_looked_back(vault),
        keys.guesses(address),
        keys.new_vaults(address),
        keys.rate(first_id, "address", address),
        keys.remembered_request(lookup),
        keys.remembered_of_client(address),
        keys.tick(names.SWEEP_JOB),
        keys.tick(names.PARTITIONS_JOB),
        keys.tick(names.RETENTION_JOB),
    ]


IDS = st.binary(min_size=16, max_size=16)


@given(st.integers(0, 255), IDS, st.integers(0, 2**53), IDS, st.ip_addresses().map(str))
def test_names_of_different_kinds_differ(
    shard: int, vault: bytes, first_id: int, lookup: bytes, address: str
) -> None:
    found = all_names(KEYS, shard, vault, first_id, lookup, address)
    assert len(set(found)) == len(found)


def test_names_of_different_shards_differ() -> None:
    for name in (KEYS.stream, names.drain_job, KEYS.hot_cover):
        assert len({name(shard) for shard in range(256)}) == 256


@given(st.sets(IDS, min_size=2, max_size=5))
def test_names_of_different_vaults_differ(vaults: set[bytes]) -> None:
    for name in (
        KEYS.vault_record,
        KEYS.changed_lookup,
        KEYS.hot_index,
        KEYS.compaction_looked,
        KEYS.compaction_looked_back,
    ):
        assert len({name(vault) for vault in vaults}) == len(vaults)
    segments = {KEYS.hot_segment(vault, first_id) for vault in vaults for first_id in range(3)}
    assert len(segments) == 3 * len(vaults)


def test_names_of_different_addresses_differ() -> None:
    assert KEYS.guesses("::1") != KEYS.guesses("::2")


PREFIXES = ["", "berlin:", "berlin:iot-2:", "rq2:", "iot-2:"]


@given(st.integers(0, 255), IDS, st.integers(0, 2**53), IDS, st.ip_addresses().map(str))
def test_names_of_different_prefixes_differ(
    shard: int, vault: bytes, first_id: int, lookup: bytes, address: str
) -> None:
    found = []
    for prefix in PREFIXES:
        ours = all_names(KeyNames(prefix), shard, vault, first_id, lookup, address)
        assert all(name.startswith(f"{prefix}iot:") for name in ours if ":queue:" not in name)
        found += ours
    assert len(set(found)) == len(found)
