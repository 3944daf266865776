"""An outbox, a client and a live stream after a fork. Scripts fork, because pytest has threads."""

import subprocess
import sys
from pathlib import Path

import pytest

from iot_sensor_client import Client, Outbox
from unit.client.conftest import Server
from unit.client.test_live import OPEN, event, reading, scripted

NOWHERE = "http://127.0.0.1:1"

_CALLS = """
import os, sys
from iot_sensor_client import Client, Outbox, OutboxError
client = Client(sys.argv[1])
outbox = Outbox(client, sys.argv[2])
outbox.send({"relative_time": 1})
if child := os.fork():
    os.waitpid(child, 0)
    outbox.send({"relative_time": 2})
    print(outbox.flush(20))
    outbox.close()
    sys.exit()
for call in (
    lambda: outbox.send({"relative_time": 3}),
    lambda: outbox.flush(0),
    outbox.statistics,
    outbox.rejected,
    lambda: outbox.resend_rejected([]),
    lambda: outbox.discard_rejected([]),
    lambda: Outbox(client, sys.argv[2]),
):
    try:
        call()
        print("no error")
    except OutboxError as error:
        print(error)
"""

_END = """
import gc, os, signal, sys
from iot_sensor_client import Client, Outbox
outbox = Outbox(Client(sys.argv[1]), sys.argv[2])
outbox.send([{"relative_time": number} for number in range(5)])
if child := os.fork():
    assert os.waitpid(child, 0)[1] == 0
    outbox.send([{"relative_time": number} for number in range(5)])
    os.kill(os.getpid(), signal.SIGKILL)
"""
_ENDS = {
    "close": "outbox.close()",
    "with block": "with outbox: pass",
    "collected": "del outbox; gc.collect(); os._exit(0)",
    "exit": "",
    # The frames of the thread that sends keep the outbox in a child of CPython 3.11.
    "collected connection": "file = outbox._file; file.__dict__.clear(); gc.collect(); os._exit(0)",
}

_REQUESTS = """
import os, sys
from iot_sensor_client import Client
client = Client(sys.argv[1])
client.request("GET", "/before")
child = os.fork()
for _ in range(2):
    client.request("GET", "/parent" if child else "/child")
if child:
    os.waitpid(child, 0)
    client.request("GET", "/after")
"""

_FOLLOW = """
import os, sys
from iot_sensor_client import Client
live = Client(sys.argv[1]).follow(interval=0.01)
print(next(live)["id"], flush=True)
if child := os.fork():
    os.waitpid(child, 0)
else:
    print(next(live)["id"])
"""


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=30, check=False)


def test_a_child_can_not_use_the_outbox_of_its_parent(server: Server, tmp_path: Path) -> None:
    *refused, again, flushed = run(_CALLS, server.url, tmp_path / "o").stdout.splitlines()
    assert len(refused) == 6
    assert all("a forked process needs an outbox of its own" in each for each in refused)
    assert "in use by another outbox, or was in use when this process was forked" in again
    assert flushed == "True"
    bodies = b"".join(each.body for each in server.received)
    assert [bodies.count(b'"relative_time":%d' % number) for number in (1, 2, 3)] == [1, 1, 0]


@pytest.mark.parametrize("end", _ENDS)
def test_no_end_of_a_child_takes_readings_from_its_parent(tmp_path: Path, end: str) -> None:
    """A closed SQLite connection would delete the WAL, to which the parent goes on writing."""
    run(_END + _ENDS[end], NOWHERE, tmp_path / "o")
    with Client(NOWHERE) as client:
        outbox = Outbox(client, tmp_path / "o")
        assert outbox.statistics().waiting == 10
        outbox.close(timeout=0)


def test_a_child_opens_connections_of_its_own(server: Server) -> None:
    assert run(_REQUESTS, server.url).returncode == 0
    ports = {
        path: {each.connection for each in server.received if each.path == path}
        for path in ("/before", "/parent", "/after", "/child")
    }
    assert ports["/before"] == ports["/parent"] == ports["/after"]
    assert len(ports["/child"]) == 1
    assert ports["/child"] != ports["/parent"]


def test_a_child_follows_on_a_stream_of_its_own() -> None:
    with scripted() as service:
        service.holds = True
        service.answers = [
            (200, OPEN + event("readings", {"data": [reading(1)]}, "p1")),
            (200, OPEN + event("readings", {"data": [reading(2)]}, "p2")),
        ]
        assert run(_FOLLOW, service.url).stdout == "1\n2\n"
    assert [last for _, last, _ in service.requests] == ["", "p1"]
