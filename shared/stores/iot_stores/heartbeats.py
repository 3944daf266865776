"""Heartbeats: the counters and the loaded keys of each running process, in a stream of Redis.

Each process adds a heartbeat every few seconds (`process_reports`). The stream keeps the heartbeats
of the last `KEEP_SECONDS`. `GET /api/status` computes rates from these heartbeats, so any API
process can report on all processes.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from redis import Redis

from iot_cipher.keyring import KeyId
from iot_cipher.writer_keys import KeySet
from iot_models import metrics
from iot_models.names import KeyNames

from .key_deletion import delete_key
from .process_reports import MALFORMED, ProcessReport, process_name
from .redis_client import milliseconds
from .stream_entries import StreamItem

KEEP_SECONDS = 30
"""The stream keeps heartbeats for this long, and rates are means over at most this time."""
ALIVE_SECONDS = 15
"""A process whose last heartbeat is older than this has ended, or can't reach Redis."""
TOTALS = {
    "api": {
        "readings_in": "iot_readings_acknowledged_total",
        "bytes_in": "iot_put_body_bytes",
        "puts_rejected": "iot_puts_rejected_total",
        "readings_read": "iot_readings_read_total",
    },
    "writer": {
        "readings_out": "iot_readings_stored_total",
        "bytes_out": "iot_drain_written_bytes_total",
    },
}
"""For each service, the names of the totals in its heartbeats, and the metric behind each total. A
total is the value of a counter, or the sum of a histogram. `/api/status` has the rate of each
total."""
_GAUGES = {
    "api": "iot_api_heartbeat_timestamp_seconds",
    "writer": "iot_writer_heartbeat_timestamp_seconds",
}


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """One heartbeat of a process."""

    at: int
    """When Redis received the heartbeat, in Unix milliseconds by the clock of Redis."""
    service: str
    process: str
    """`<host name>:<pid>`."""
    totals: Mapping[str, float]
    """The totals since the start of the process, by the names in `TOTALS`."""
    drained_at: Mapping[int, float] = field(default_factory=dict)
    """When the writer last drained each shard, in Unix milliseconds by the clock of Redis."""
    keys: Sequence[KeyId] = ()
    """The master keys that the process has loaded."""
    primary_key: KeyId = 0


class HeartbeatSender(ProcessReport):
    """Sends the heartbeats of this process."""

    consequence = "no heartbeat is sent"

    def __init__(
        self,
        client: "Redis",
        names: KeyNames,
        service: str,
        keys: Callable[[], KeySet],
        *,
        require_ownership: Callable[[], None],
        drained: Callable[[], Mapping[int, float]] = dict,
    ) -> None:
        """`drained` returns the seconds since this writer last drained each shard."""
        super().__init__(client, names, service, keys, require_ownership=require_ownership)
        self._drained = drained

    def _content(self, now: float) -> dict[str, object]:
        del now
        keys = self._keys()
        return {
            "service": self._service,
            "process": process_name(),
            "totals": {
                name: metrics.value_of(counter) for name, counter in TOTALS[self._service].items()
            },
            "drained": {str(shard): seconds for shard, seconds in self._drained().items()},
            "keys": sorted(keys.key_ids),
            "primary_key": keys.primary_id,
        }

    def _send(self, content: dict[str, object]) -> None:
        # `oldest` is compared with ids of items, which are times of Redis. So take the time from
        # Redis: a process with a wrong clock must not remove the heartbeats of other processes.
        now = milliseconds(self._client.time())
        oldest, latest = now - KEEP_SECONDS * 1000, now + KEEP_SECONDS * 1000
        name, beat = self._names.heartbeats, {"heartbeat": json.dumps(content)}
        added = self._client.xadd(name, beat, minid=oldest, approximate=False)  # type: ignore[arg-type]
        if _milliseconds_of(cast("bytes", added)) > latest:
            # The clock of Redis was set back. Ids of a stream never decrease, so no heartbeat would
            # be removed until the clock has caught up. The next heartbeats make a new stream.
            delete_key(self._client, name)
        metrics.gauge(_GAUGES[self._service]).set_to_current_time()


@dataclass(frozen=True, slots=True)
class Heartbeats:
    """The heartbeats of the last `KEEP_SECONDS`."""

    now: int
    """When the heartbeats were read, in Unix milliseconds by the clock of Redis."""
    by_process: Mapping[tuple[str, str], Sequence[Heartbeat]]
    """The heartbeats of each running process, by service and process, the oldest first."""

    def latest(self, service: str) -> list[Heartbeat]:
        """Return the last heartbeat of each running process of a service."""
        return [beats[-1] for (of, _), beats in self.by_process.items() if of == service]

    def rate(self, total: str, process: str | None = None) -> float:
        """Return how much a total (a name in `TOTALS`) rises per second.

        Without `process`, add up the rates of all running processes. The rate of a process that has
        sent only one heartbeat counts as 0.
        """
        rate = 0.0
        for (_, name), beats in self.by_process.items():
            first, last = beats[0], beats[-1]
            if last.at > first.at and process in {None, name}:
                risen = last.totals.get(total, 0.0) - first.totals.get(total, 0.0)
                rate += 1000 * max(0.0, risen) / (last.at - first.at)
        return rate


def read_heartbeats(client: "Redis", names: KeyNames) -> Heartbeats:
    """Return the heartbeats of the processes that run. Raises `RedisError`."""
    with client.pipeline(transaction=False) as pipeline:
        pipeline.time()
        pipeline.xrange(names.heartbeats)
        now_parts, items = pipeline.execute()
    now = milliseconds(now_parts)
    by_process: dict[tuple[str, str], list[Heartbeat]] = {}
    for item_id, fields in cast("list[StreamItem]", items):
        try:
            beat = _decode(_milliseconds_of(item_id), json.loads(fields[b"heartbeat"]))
        except MALFORMED:
            continue
        if beat.at >= now - KEEP_SECONDS * 1000:
            by_process.setdefault((beat.service, beat.process), []).append(beat)
    running = {
        name: beats
        for name, beats in sorted(by_process.items())
        if beats[-1].at >= now - ALIVE_SECONDS * 1000
    }
    return Heartbeats(now, running)


def _milliseconds_of(item_id: bytes) -> int:
    return int(item_id.partition(b"-")[0])


def _decode(at: int, content: dict[str, Any]) -> Heartbeat:
    drained = {int(shard): at - 1000 * ago for shard, ago in content["drained"].items()}
    return Heartbeat(
        at,
        str(content["service"]),
        str(content["process"]),
        {name: float(total) for name, total in content["totals"].items()},
        drained,
        [*content["keys"]],
        content["primary_key"],
    )
