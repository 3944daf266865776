"""All servers get the same readings, and the load generator fails on unexpected responses."""

import json
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from importlib import import_module
from itertools import repeat
from pathlib import Path

import pytest
from bench import readings, wrk
from bench.limits import wait_until, within
from bench.load import Wire, paced, send, shared
from bench.peers.stand_in import compared_with_recorded
from bench.profiles import API_STAGES, LOOP, OTHER, WRITER_STAGES, parse
from bench.response_counter import count_in_response
from bench.stage import batches, missing

from support.serving import QuietHandler, serving


def test_json_and_lines_have_the_same_readings() -> None:
    rows = json.loads(readings.json_readings(7, 3, "vault-000001"))
    lines = readings.lines(7, 3, "vault-000001").decode().splitlines()
    assert len(rows) == len(lines) == 3
    for row, line in zip(rows, lines, strict=True):
        data = row["data"]
        tags, fields, moment = line.split(" ")
        assert int(moment) == data["interrogator_time"]
        assert tags == f"reading,vault=vault-000001,epc96={data['freeform']['epc96']}"
        values = dict(each.split("=") for each in fields.split(","))
        seen = {**data["freeform"], "relative_time": data["relative_time"]}
        del seen["epc96"]
        assert values == {name: f"{value}i" for name, value in seen.items()}


def test_readings_have_the_recorded_size_and_different_times() -> None:
    body = readings.json_readings(0, 1000, "vault-000000")
    assert 200_000 < len(body) < 230_000
    times = [readings.time_of(number) for number in range(70_000)]
    assert times == sorted(set(times))


@pytest.fixture
def port() -> Iterator[int]:
    """A server that refuses bodies with `bad`, and closes connections."""

    class Handler(QuietHandler):
        def do_PUT(self) -> None:  # noqa: N802 -- the name http.server calls
            body = self.body()
            headers = {"Connection": "close"} if body.endswith(b"1") else {}
            self.answer(400 if b"bad" in body else 201, b"abcab" * 1000, headers)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with serving(server):
        yield server.server_port


WIRE = Wire("PUT", "/", "text/plain", 201, lambda *_: b"", lambda *_: "")


def test_all_requests_are_sent_to_a_server_that_closes_connections(port: int) -> None:
    lane = [WIRE.request(b"body %d" % (number % 2)) for number in range(6)]
    assert send(port, [lane, lane], 201).requests == 12


def test_an_unexpected_status_is_an_error(port: int) -> None:
    with pytest.raises(RuntimeError, match="400"):
        send(port, [[WIRE.request(b"bad 0")]], 201)


def test_words_split_across_chunks_are_counted(port: int) -> None:
    assert count_in_response(port, "PUT", "/", b"0", b"abcababcab") == 500
    assert count_in_response(port, "PUT", "/", b"0", b"ca") == 1000


def test_lanes_share_one_sequence() -> None:
    lanes = shared([b"1", b"2", b"3"], 2)
    assert [*lanes[0], *lanes[1]] == [b"1", b"2", b"3"]


def test_a_paced_lane_sends_at_its_rate() -> None:
    assert len(list(paced(repeat(b""), 100, 0.1))) <= 12


def test_batches_are_consecutive() -> None:
    wire = Wire("PUT", "/", "t", 201, lambda *given: repr(given).encode(), lambda *_: "")
    bodies = [each.split(b"\r\n\r\n")[1] for each in batches(wire, "v", 5, 2, 10)]
    assert bodies == [b"(5, 10, 'v')", b"(15, 10, 'v')"]


def test_waits_have_timeouts() -> None:
    with pytest.raises(TimeoutError, match="a wait"), within(0.05, "a wait"):
        wait_until(lambda: False, 30, "nothing")
    with pytest.raises(TimeoutError, match="nothing"):
        wait_until(lambda: False, 0.02, "nothing")


def test_a_missing_program_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert not wrk.installed()
    assert "apt-get install wrk" in missing("wrk", wrk.PACKAGE)


@pytest.mark.parametrize(
    ("ratio", "said"), [(1.0, "about as fast"), (4, "FASTER"), (0.2, "SLOWER")]
)
def test_a_stand_in_with_another_speed_is_reported(ratio: float, said: str) -> None:
    assert said in compared_with_recorded(ratio)


@pytest.mark.parametrize("stages", [API_STAGES, WRITER_STAGES])
def test_the_files_of_stages_exist(stages: dict[str, tuple[str, ...]]) -> None:
    for path in (each for paths in stages.values() for each in paths if each.startswith("iot_")):
        package, _, rest = path.partition("/")
        folder = Path(str(import_module(package).__file__)).parent
        assert list(folder.glob(f"{rest}*")), path


def test_samples_count_for_the_innermost_stage() -> None:
    profile = parse(
        "run (gevent/hub.py:1);handle (gunicorn/a.py:2);parse (iot_api/ingest/parser.py:3) 6\n"
        "handle (gunicorn/a.py:2);append (iot_stores/backlog.py:9);send (gevent/s.py:1) 2\n"
        "run (gevent/hub.py:1) 1\n"
        "main (x.py:1) 1\n"
    )
    shares = profile.by_stage(API_STAGES)
    assert shares["parse"] == 0.6
    assert shares["Redis client"] == 0.2
    assert shares[LOOP] == shares[OTHER] == 0.1
    assert "60.0 %  60.0 %  parse (ingest/parser.py)" in profile.text()
    assert "20.0 %  20.0 %  send (gevent/s.py)" in profile.text()
