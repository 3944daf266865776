"""Checks that a Redis belongs to this installation, and that its settings are safe.

The settings are safe if Redis evicts no keys and, in the backlog's Redis, writes an AOF.
IOT_REDIS_ALLOW_EVICTION and IOT_REDIS_ALLOW_NO_AOF permit other settings of the backlog's Redis.

Redis is marked with the id of the installation, which is stored in Postgres. The check runs before
the first use, every second in a thread, and in `/readyz`. Requests use the result of the last
check, so the checks cost requests no round trip.
"""

import copy
import itertools
import logging
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import psycopg
from redis import Redis
from redis.exceptions import (
    BusyLoadingError,
    ClusterCrossSlotError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    NoPermissionError,
    RedisError,
    ResponseError,
)

from iot_models.errors import SettingsError, UnavailableError
from iot_models.names import KeyNames

from .installation import KEYRING_MISMATCH, Installation
from .redis_connections import renew_connections
from .scripts import load_script
from .store_states import POSTGRES_UNAVAILABLE, public_state, report

CHECK_SECONDS = 1.0
RETRY_SECONDS = 5

_OF_A_CLUSTER = (ClusterCrossSlotError, ClusterDownError, MovedError)

_log = logging.getLogger(__name__)


class UnfitRedisError(UnavailableError):
    """Redis must not be used. `/readyz` and the log give the reason; clients do not get it."""

    def __init__(self) -> None:
        super().__init__(
            "Redis is not configured for this service; see /readyz", retry_after=RETRY_SECONDS
        )


@dataclass(frozen=True, slots=True)
class RedisRequirements:
    """What the settings require of one Redis."""

    name: str = "Redis"
    variable: str = "IOT_REDIS_URL"
    durable: bool = True
    """Whether Redis must have an AOF."""
    may_evict: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of one check. Each text names a problem; it is empty if none was found."""

    unknown: str = ""
    """Why the database gives no installation id to compare with. Redis itself has no fault."""
    foreign: str = ""
    """Why the process must neither write to this Redis nor read from it."""
    unsafe: str = ""
    """Why Redis must not get new readings. Writers still drain the entries that wait in Redis."""
    unchecked: str = ""
    """What could not be checked."""
    evicts: bool = False
    """Whether Redis evicts keys when its memory is full."""
    unfit: bool = field(init=False)
    """Whether PUTs are refused."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "unfit", bool(self.unknown or self.fault))

    @property
    def fault(self) -> str:
        """All faults of Redis as one text (`foreign`, `unsafe`); empty if it has none."""
        return "; ".join(filter(None, (self.foreign, self.unsafe)))


class RedisWatch:
    """The checks of one Redis, shared by all threads of a process."""

    def __init__(
        self,
        client: "Redis",
        names: KeyNames,
        installation: Installation,
        requirements: RedisRequirements,
    ) -> None:
        self._client = client
        self._keys = [names.owner, names.owner_keyring, names.backlog_counters]
        self._installation = installation
        self._requirements = requirements
        self._claim = load_script(client, "owner_claim.lua")
        self._logged: Verdict | None = None
        self._verdict: Verdict | None = None
        """The verdict of the last check; None: no verdict, so the next use checks Redis."""
        self.safe = False
        """Whether the last check found that Redis may get readings; if not, PUTs call
        `require_safe`.
        """
        self._verdict_number = 0
        """The number of the check that set `_verdict`. A check with a lower number began earlier,
        and does not replace the verdict.
        """
        self._check_numbers = itertools.count(1)
        self._verdict_lock = threading.Lock()
        self._first_check_lock = threading.Lock()
        self._first_checks = 0
        self._first_check_error: Exception | None = None
        self._run_id: str | None = None
        self.on_new_server: Callable[[], None] = lambda: None
        """Called by a check that meets another server process than the check before: after a
        restart or a failover, data may be missing.
        """

    def require_safe(self) -> None:
        """Raise unless Redis belongs to this installation and its settings are safe.

        Raises:
            UnfitRedisError: Redis must not get readings.
            RedisError, psycopg.Error: there is no verdict, and Redis or Postgres is away.
        """
        verdict = self._verdict or self._first_check()
        if verdict.unfit:
            raise UnfitRedisError

    def require_ownership(self) -> None:
        """Raise unless Redis belongs to this installation. Raises like `require_safe`."""
        verdict = self._verdict or self._first_check()
        if verdict.unknown or verdict.foreign:
            raise UnfitRedisError

    def confirm_ownership(self) -> None:
        """Check Redis now, and raise unless it belongs to this installation.

        Raises:
            UnfitRedisError: Redis belongs to another installation, or its owner is unknown.
            RedisError, psycopg.Error: Redis or Postgres is away.
        """
        self.check()
        self.require_ownership()

    def keeps_indexes(self) -> bool:
        """Return whether this Redis belongs to this installation and evicts no keys.

        If not, an index of the hot window may be missing, and reads would miss segments. If there
        is no verdict because Postgres is away, return True: reads need the hot window most then.

        Raises:
            RedisError: there is no verdict, because Redis is away.
        """
        try:
            verdict = self._verdict or self._first_check()
        except POSTGRES_UNAVAILABLE:
            # Without Postgres the owner is unknown, and reads need the hot window most.
            return True
        return not (verdict.unknown or verdict.foreign or verdict.evicts)

    def state(self) -> str:
        """Check Redis now. Return `ok` or the fault, as `/readyz` reports it."""
        try:
            return self.check().fault or "ok"
        except RedisError as error:
            return public_state(_log, self._requirements.name, error)
        except POSTGRES_UNAVAILABLE:
            return "not checked: Postgres is away"

    def invalidate(self) -> None:
        """Discard the last verdict, because the URL of Postgres may lead to another database now.

        The next use checks Redis again. The verdict of a check that is running is discarded, too.
        """
        self._store_verdict(next(self._check_numbers), None)

    def check(self) -> Verdict:
        """Check Redis now. If checks overlap, the verdict of the check that began last stays.

        Raises:
            RedisError, psycopg.Error: Redis or Postgres is away. The last verdict is discarded.
        """
        number = next(self._check_numbers)
        try:
            verdict = self._examine()
        except Exception:
            self._store_verdict(number, None)
            raise
        if self._store_verdict(number, verdict) and verdict != self._logged:
            self._log_verdict(verdict)
        return verdict

    def _store_verdict(self, number: int, verdict: Verdict | None) -> bool:
        """Store a verdict. Return False if a check that began later has stored one already."""
        with self._verdict_lock:
            if number < self._verdict_number:
                return False
            self._verdict_number, self._verdict = number, verdict
            self.safe = verdict is not None and not verdict.unfit
            return True

    def _first_check(self) -> Verdict:
        """Check Redis once for all waiting threads. Each gets the same verdict or error."""
        checks_before = self._first_checks
        with self._first_check_lock:
            if self._first_checks == checks_before:
                self._first_check_error = None
                try:
                    self.check()
                except Exception as error:  # noqa: BLE001 - raised to all threads that wait
                    self._first_check_error = copy.copy(error)
                self._first_checks += 1
            if self._first_check_error is not None:
                # A copy for each thread: a traceback keeps the request of its thread in memory.
                raise copy.copy(self._first_check_error)
            return self._verdict or self.check()

    def _examine(self) -> Verdict:
        name = self._requirements.name
        info = self._info()
        self._compare_server(info.get("run_id"))
        if info.get("cluster_enabled"):
            return Verdict(foreign=_cluster(name))
        if info.get("role") == "slave":
            # The host name may resolve to the new master by now. Reconnect here: a process without
            # traffic would otherwise notice only at its next request, and refuse that request.
            renew_connections(self._client)
        unmarked = ""
        try:
            foreign = self._foreign()
        except SettingsError as error:
            return Verdict(unknown=str(error))
        except MasterDownError:  # a subclass of ClusterDownError in redis-py, but a passing state
            raise
        except _OF_A_CLUSTER:
            return Verdict(foreign=_cluster(name))
        except NoPermissionError:
            foreign, unmarked = "", _unmarked(name, self._keys[0])
        evicts, unsafe, unchecked = _judge(self._loaded(info), self._requirements)
        return Verdict(
            foreign=foreign, unsafe=unsafe, unchecked=unmarked or unchecked, evicts=evicts
        )

    def _loaded(self, info: dict[str, Any]) -> dict[str, Any]:
        """Return `info`; if `info` shows that the server is loading its data, return a newer INFO.

        While a server loads its data, INFO shows `aof_enabled:0` even if appendonly is yes (Redis
        6.2, 7.0; Valkey 9). Call `_loaded` after the script that marks Redis: redis-py repeats the
        script while the answer is LOADING, so the server has usually finished loading by then.

        Raises:
            BusyLoadingError: the server is still loading its data.
        """
        if _is_loading(info):
            info = self._info()
        if _is_loading(info):
            raise BusyLoadingError(
                "Redis is loading its data, as INFO shows", status_code="LOADING"
            )
        return info

    def _compare_server(self, run_id: str | None) -> None:
        if run_id is None:  # INFO is not allowed
            return
        last, self._run_id = self._run_id, run_id
        if last not in {None, run_id}:
            self.on_new_server()

    def _foreign(self) -> str:
        """Mark Redis if it has no mark. Return why Redis must not be used, or an empty text."""
        away: psycopg.Error | None = None
        own_id = ""
        try:
            own_id = str(self._installation.get_id())
        except POSTGRES_UNAVAILABLE as error:
            away = error
        answers = cast("list[bytes]", self._claim(keys=self._keys, args=[own_id]))
        owner, keyring = (answer.decode(errors="replace") for answer in answers)
        mark = self._keyring_mark(owner)
        if away is not None:
            if mark and mark == keyring:
                # A process with this keyring compared the mark with the database earlier. So PUTs
                # are accepted while Postgres is away.
                return ""
            raise away
        if owner != own_id:
            return _foreign(self._requirements, owner, own_id)
        if mark and not keyring:
            if self._installation.marks_keyring:
                self._client.set(self._keys[1], mark)
        elif mark and mark != keyring:
            return KEYRING_MISMATCH.format(where=self._requirements.name)
        return ""

    def _keyring_mark(self, owner: str) -> str:
        if self._installation.keyring_mark is None:
            return ""
        try:
            return self._installation.keyring_mark(uuid.UUID(owner)).hex()
        except ValueError:  # not a mark of this service
            return ""

    def _info(self) -> dict[str, Any]:
        try:
            return self._client.info()
        except NoPermissionError:
            return {}
        except ResponseError as error:  # some managed services rename INFO
            if str(error).startswith("unknown command"):
                return {}
            raise

    def _log_verdict(self, verdict: Verdict) -> None:
        if verdict.unfit:
            _log.error("not ready: %s", verdict.unknown or verdict.fault)
        elif self._logged is not None and self._logged.unfit:
            _log.info("%s is usable again", self._requirements.name)
        if verdict.unchecked:
            _log.warning("%s", verdict.unchecked)
        self._logged = verdict


def _is_loading(info: dict[str, Any]) -> bool:
    return bool(info.get("loading") or info.get("async_loading"))


def _judge(info: dict[str, Any], requirements: RedisRequirements) -> tuple[bool, str, str]:
    """Return (whether Redis evicts keys, unsafe settings, settings that Redis does not report).

    Unsafe and unreported settings are sentences for the operator, empty if there are none.
    """
    name = requirements.name
    policy, aof = info.get("maxmemory_policy"), info.get("aof_enabled")
    evicts = policy not in {None, "noeviction"}
    unsafe, unreported = [], []
    if evicts and not requirements.may_evict:
        unsafe.append(
            f"{name} may evict readings, because its maxmemory-policy is {policy}: set noeviction, "
            "or IOT_REDIS_ALLOW_EVICTION=1 to accept the loss of readings"
        )
    if aof == 0 and requirements.durable:
        unsafe.append(
            f"{name} keeps readings in memory only, because its appendonly is no: set appendonly "
            "yes, or IOT_REDIS_ALLOW_NO_AOF=1 if replicas are enough"
        )
    if policy is None:
        unreported.append("maxmemory-policy")
    if aof is None and requirements.durable:
        unreported.append("appendonly")
    unchecked = ""
    if unreported:
        unchecked = (
            f"{name} does not report its {' and '.join(unreported)}, so the service can't check "
            "that it keeps readings"
        )
    return evicts, "; ".join(unsafe), unchecked


def _unmarked(name: str, key: str) -> str:
    return (
        f"the user of {name} may not use the key {key}, so the service can't check which "
        f"installation {name} belongs to: grant the permissions in redis-users.acl of the chart"
    )


def _cluster(name: str) -> str:
    return (
        f"{name} is a Redis Cluster, which is not supported: use a single Redis, with replicas and "
        "Sentinels (redis+sentinel://) for failover"
    )


def _foreign(requirements: RedisRequirements, owner: str, own_id: str) -> str:
    return (
        f"{requirements.name} belongs to the installation {owner[:36]}, and the database to "
        f"{own_id}: set another database number in {requirements.variable}, or an "
        "IOT_REDIS_KEY_PREFIX; or, if this Redis and this database belong "
        "together, run `iot-sensor claim-redis`"
    )


class RedisWatchThread(threading.Thread):
    """A thread that calls `RedisWatch.check` every second, so that requests need no check."""

    def __init__(self, watches: Sequence[RedisWatch]) -> None:
        super().__init__(name="redis-watcher", daemon=True)
        self.after_checks: list[Callable[[], None]] = []
        """Called after each round of checks, every second."""
        self._watches = watches
        self._stopping = threading.Event()

    def run(self) -> None:
        """Check until `stop` is called."""
        while True:
            for watch in self._watches:
                try:
                    watch.check()
                except (RedisError, *POSTGRES_UNAVAILABLE) as error:
                    _log.debug("the check of Redis failed: %s", error)
                except Exception as error:  # noqa: BLE001 - the thread must survive any defect
                    report(_log, "Redis is not checked", error)
            for step in self.after_checks:
                try:
                    step()
                except Exception as error:  # noqa: BLE001 - as above
                    report(_log, "a step of the thread that watches Redis failed", error)
            if self._stopping.wait(CHECK_SECONDS):
                return

    def stop(self) -> None:
        """Stop the thread after the check that is running."""
        self._stopping.set()
