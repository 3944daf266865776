"""Which master keys each running process has loaded: reports in Redis, which expire.

API processes and writers report every few seconds (`process_reports`). `iot-sensor keys` reads the
reports.
"""

import calendar
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from redis import Redis
from redis.exceptions import ResponseError

from iot_cipher.keyring import KeyId
from iot_cipher.writer_keys import KeySet, fingerprints
from iot_models import metrics
from iot_models.errors import IotError
from iot_models.logs import printable
from iot_models.names import KeyNames

from .process_reports import MALFORMED, ProcessReport, process_name
from .store_states import is_wrong_type

EXPIRY_SECONDS = 15
"""Maximum time for which a report outlives its process."""
_MAX_RQ_HEARTBEAT_SECONDS = 60.0
"""Writers of an earlier version do not report: such a writer counts as gone if its heartbeat in RQ
is older than this."""
_SCAN_COUNT = 1000
_GAUGES = {"api": "iot_api_master_key_loaded", "writer": "iot_writer_master_key_loaded"}


@dataclass(frozen=True, slots=True)
class LoadedKeys:
    """The last report of a process."""

    role: str
    process: str
    """`<role> <host name>:<pid>`."""
    fingerprints: Mapping[KeyId, str]
    primary_id: KeyId
    primary_seconds: float
    """Seconds since the process changed to this primary key; infinite if the process has never had
    another one."""
    open_vaults: Mapping[KeyId, int]
    """Open vaults of an API process, by the master key of their records."""


class LoadedKeysReporter(ProcessReport):
    """Reports the keys that this process has loaded."""

    consequence = "the loaded keys are not reported"

    def __init__(
        self,
        client: "Redis",
        names: KeyNames,
        service: str,
        keys: Callable[[], KeySet],
        *,
        require_ownership: Callable[[], None],
        open_vaults: Callable[[], Counter[KeyId]] = Counter,
    ) -> None:
        """`open_vaults` counts the open vaults by the master keys of their records."""
        super().__init__(client, names, service, keys, require_ownership=require_ownership)
        self._open_vaults = open_vaults
        self._primary: tuple[KeyId, str] | None = None
        self._changed_at = -math.inf
        self._exported: set[KeyId] = set()

    def _content(self, now: float) -> dict[str, object]:
        keys = self._keys()
        loaded = fingerprints(keys)
        self._export(set(loaded), keys.primary_id)
        primary = (keys.primary_id, loaded[keys.primary_id])
        if self._primary is not None and primary != self._primary:
            self._changed_at = now
        self._primary = primary
        return {
            "role": self._service,
            "process": f"{self._service} {process_name()}",
            "fingerprints": loaded,
            "primary": keys.primary_id,
            "primary_seconds": now - self._changed_at,
            "open_vaults": self._open_vaults(),
        }

    def _send(self, content: dict[str, object]) -> None:
        name = self._names.loaded_keys(f"{self._service}:{process_name()}")
        self._client.set(name, json.dumps(content), ex=EXPIRY_SECONDS)

    def _export(self, loaded: set[KeyId], primary_id: KeyId) -> None:
        gauge = metrics.gauge(_GAUGES[self._service])
        for key_id in loaded | self._exported:
            gauge.labels(str(key_id)).set(key_id in loaded)
            if self._service == "api":
                primary = metrics.gauge("iot_api_master_key_primary").labels(str(key_id))
                primary.set(key_id == primary_id)
        self._exported |= loaded


def read_reports(client: "Redis", names: KeyNames) -> list[LoadedKeys]:
    """Return the last report of each process that runs or ended less than `EXPIRY_SECONDS` ago.

    Scans all keys of Redis.

    Raises:
        RedisError: Redis is away.
        IotError: another program has written a report, perhaps over the report of a process that
            lacks a key. So the report is not skipped.
    """
    pattern = names.loaded_keys("*")
    found = sorted(cast("set[bytes]", set(client.scan_iter(match=pattern, count=_SCAN_COUNT))))
    texts = cast("list[bytes | None]", client.mget(found)) if found else []
    reports = []
    for name, text in zip(found, texts, strict=True):
        try:
            reports += [_decode(json.loads(text))] if text is not None else []
        except MALFORMED:
            key = printable(name.decode(errors="replace"))
            raise IotError(
                f"the value of the Redis key {key} is not a report of a process: delete the key"
            ) from None
    return reports


def silent_writers(client: "Redis", names: KeyNames, reports: list[LoadedKeys]) -> list[str]:
    """Return the running writers that have not reported their loaded keys.

    A writer is running if its heartbeat in RQ is recent, or if another program has overwritten the
    heartbeat with a value that is not a time. A writer that does not report has an earlier
    version, or its Redis user has no right to write the report.
    """
    known = {each.process for each in reports}
    silent = []
    for name in sorted(cast("set[bytes]", client.smembers(f"{names.rq}:workers"))):
        try:
            found = client.hmget(name, ["hostname", "pid", "last_heartbeat"])
        except ResponseError as error:
            if not is_wrong_type(error):
                raise
            silent.append(printable(f"writer {name.decode(errors='replace')}"))
            continue
        host, pid, beat = (
            value if value is None else value.decode(errors="replace")
            for value in cast("list[bytes | None]", found)
        )
        if host is None or pid is None or beat is None or not _is_recent(beat):
            continue
        process = printable(f"writer {host}:{pid}")
        if process not in known:
            silent.append(process)
    return silent


def _is_recent(heartbeat: str) -> bool:
    try:
        moment = time.strptime(heartbeat[:19], "%Y-%m-%dT%H:%M:%S")
    except ValueError:
        return True
    return time.time() - calendar.timegm(moment) < _MAX_RQ_HEARTBEAT_SECONDS


def _decode(content: dict[str, Any]) -> LoadedKeys:
    return LoadedKeys(
        content["role"],
        printable(content["process"]),
        {int(key_id): mark for key_id, mark in content["fingerprints"].items()},
        content["primary"],
        content["primary_seconds"],
        {int(key_id): count for key_id, count in content["open_vaults"].items()},
    )
