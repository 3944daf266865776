"""A damaged segment that decrypts is detected when it is opened, as one that does not decrypt."""

import json

import psycopg
import pytest
from redis import Redis

from integration.api.asking import JSON, PASSWORD, Api, assert_error, row, sample
from integration.api.live_streams import listening
from integration.api.test_damage import PATHS
from integration.api.test_hot_window_reads import source_of
from iot_api.limits.clients import Client
from iot_cipher.encryption import OpenVault, SealedSegment
from iot_models.segment import SegmentBounds
from iot_stores.history import COLUMNS
from iot_writer.writer import Writer
from support.defective_segments import DEFECTS, Defect, content, seal
from support.draining import drain_all
from support.keys import KEYS

FORMS = ("application/json", "application/x-ndjson", "text/csv")
LATER = 10
"""The least time of the later segment."""


@pytest.fixture
def filled(api: Api, writer: Writer) -> Api:
    """An API with two segments of one vault."""
    for time in (1, LATER):
        rows = [
            row(relative_time=n, interrogator_time=n, freeform=n) for n in range(time, time + 3)
        ]
        assert api.put(rows).status_code == 201
        drain_all(writer)
    return api


def vault_of(api: Api) -> OpenVault:
    vault = api.service.vaults.find(PASSWORD.encode(), Client("test"))
    assert vault is not None
    return vault


def later_bounds(postgres: psycopg.Connection) -> SegmentBounds:
    statement = f"SELECT {COLUMNS} FROM segments WHERE relative_min = %s"  # noqa: S608 - a constant
    found = postgres.execute(statement, (LATER,)).fetchone()
    assert found is not None
    return SegmentBounds(*found)


def damage_history(api: Api, postgres: psycopg.Connection, defect: Defect) -> SealedSegment:
    """Replace the later segment in Postgres."""
    segment = seal(vault_of(api), *defect(later_bounds(postgres)))
    bounds = [getattr(segment.bounds, name) for name in COLUMNS.split(", ")]
    postgres.execute(
        f"UPDATE segments SET ({COLUMNS}, payload) = ({'%s, ' * len(bounds)} %s) "  # noqa: S608
        "WHERE relative_min = %s",
        (*bounds, segment.payload, LATER),
    )
    return segment


def damage_hot_window(
    api: Api, postgres: psycopg.Connection, redis: "Redis", defect: Defect
) -> None:
    """Replace the later segment in Redis."""
    old = later_bounds(postgres)
    segment = seal(vault_of(api), *defect(old))
    vault_id, new = segment.vault_id.bytes, segment.bounds
    assert redis.zrem(KEYS.hot_index(vault_id), old.to_bytes()) == 1
    assert redis.delete(KEYS.hot_segment(vault_id, old.first_id)) == 1
    redis.zadd(KEYS.hot_index(vault_id), {new.to_bytes(): new.received_max})
    redis.set(KEYS.hot_segment(vault_id, new.first_id), segment.payload)


def damaged() -> float:
    return sample("iot_damaged_total", what="segment")


def test_the_content_of_these_tests_is_sound_without_a_defect(
    filled: Api, postgres: psycopg.Connection, redis: "Redis"
) -> None:
    before = damaged()
    damage_hot_window(filled, postgres, redis, lambda bounds: (bounds, content(bounds)))
    damage_history(filled, postgres, lambda bounds: (bounds, content(bounds)))
    texts = ["1", "2", "3", "0", "1", "2"]
    assert source_of(filled, "/seconds/60") == ("hot_window", texts)
    assert [each["freeform"] for each in filled.read()] == texts
    assert damaged() == before


@pytest.mark.parametrize("defect", DEFECTS.values(), ids=DEFECTS)
def test_a_defect_in_the_history_is_counted_and_answered(
    defect: Defect, filled: Api, postgres: psycopg.Connection
) -> None:
    damage_history(filled, postgres, defect)
    for path in (*PATHS, "?limit=2&order=desc", "/0/100?limit=4"):
        before = damaged()
        assert_error(filled.post(f"/api/iot{path}"), 500, "damaged")
        assert damaged() == before + 1, path
    body = json.dumps({"data": {"db_password": PASSWORD}})
    for form in FORMS:
        before = damaged()
        assert_error(filled.ask("POST", "/api/iot", body, {**JSON, "Accept": form}), 500, "damaged")
        assert damaged() == before + 1, form
    for arguments in ("", "&step=1s&by=interrogator"):
        before = damaged()
        answer = filled.post(f"/api/iot/series?fields=x{arguments}")
        assert_error(answer, 500, "damaged")
        assert damaged() == before + 1, arguments


@pytest.mark.parametrize("defect", DEFECTS.values(), ids=DEFECTS)
def test_a_read_continues_from_postgres_at_a_defect_in_the_hot_window(
    defect: Defect, filled: Api, postgres: psycopg.Connection, redis: "Redis"
) -> None:
    damage_hot_window(filled, postgres, redis, defect)
    texts = ["1", "2", "3", "10", "11", "12"]
    for path, expected in (
        ("/seconds/60", texts),
        ("/seconds/60?order=desc", texts[::-1]),
        ("/seconds/60?limit=4", texts[:4]),
        ("/seconds/60?limit=1&order=desc", texts[-1:]),
    ):
        before = damaged()
        assert source_of(filled, path) == ("hot_window", expected)
        assert damaged() == before + 1, path


@pytest.mark.parametrize("name", ["a text too few", "times that fall", "equal times, ids fall"])
def test_a_defective_segment_is_left_out_of_a_live_stream(
    name: str, filled: Api, postgres: psycopg.Connection, redis: "Redis"
) -> None:
    damage_hot_window(filled, postgres, redis, DEFECTS[name])
    before = damaged()
    with listening(filled, last=60) as events:
        found = [next(events) for _ in range(3)]
    assert [event.name for event in found] == ["open", "readings", "summary"]
    assert (found[1].texts, found[2].data["skipped"]) == (["1", "2", "3"], 3)
    assert damaged() == before + 1


def test_a_defective_segment_on_the_border_of_an_erasure_stays(
    filled: Api, postgres: psycopg.Connection
) -> None:
    segment = damage_history(filled, postgres, DEFECTS["a text too few"])
    before = damaged()
    body = json.dumps({"data": {"db_password": PASSWORD}})
    assert_error(filled.ask("DELETE", "/api/iot/11/11", body, JSON), 500, "damaged")
    assert damaged() == before + 1
    found = postgres.execute("SELECT payload FROM segments WHERE relative_min = %s", (LATER,))
    assert found.fetchall() == [(segment.payload,)]
