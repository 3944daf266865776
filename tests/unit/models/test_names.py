"""Two things must never meet under one name in Redis."""

from hypothesis import given
from hypothesis import strategies as st

from iot_models import names


def all_names(shard: int, vault: bytes, first_id: int, lookup: bytes, address: str) -> list[str]:
    return [
        names.BACKLOG_COUNTERS,
        names.DEAD_LETTERS,
        names.JOB_LIST,
        names.stream(shard),
        names.drain_job(shard),
        names.vault_record(lookup),
        names.hot_index(vault),
        names.hot_segment(vault, first_id),
        names.hot_cover(shard),
        names.COMPACTION_ORDERS,
        names.compaction_looked(vault),
        names.compaction_looked_back(vault),
        names.guesses(address),
        names.tick(names.SWEEP_JOB),
        names.tick(names.PARTITIONS_JOB),
        names.tick(names.RETENTION_JOB),
    ]


IDS = st.binary(min_size=16, max_size=16)


@given(st.integers(0, 255), IDS, st.integers(0, 2**53), IDS, st.ip_addresses().map(str))
def test_every_kind_has_names_of_its_own(
    shard: int, vault: bytes, first_id: int, lookup: bytes, address: str
) -> None:
    found = all_names(shard, vault, first_id, lookup, address)
    assert len(set(found)) == len(found)


def test_every_shard_has_names_of_its_own() -> None:
    for name in (names.stream, names.drain_job, names.hot_cover):
        assert len({name(shard) for shard in range(256)}) == 256


@given(st.sets(IDS, min_size=2, max_size=5))
def test_every_vault_has_names_of_its_own(vaults: set[bytes]) -> None:
    for name in (
        names.vault_record,
        names.hot_index,
        names.compaction_looked,
        names.compaction_looked_back,
    ):
        assert len({name(vault) for vault in vaults}) == len(vaults)
    segments = {names.hot_segment(vault, first_id) for vault in vaults for first_id in range(3)}
    assert len(segments) == 3 * len(vaults)


def test_every_address_has_a_count_of_its_own() -> None:
    assert names.guesses("::1") != names.guesses("::2")
