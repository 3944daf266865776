"""The watch over a Redis: whose it is, and whether it keeps what it is given.

A Redis is marked with the id of the installation, which stands in Postgres. It is looked at before
the first use, every second while the watch's thread runs, and by readiness. A request finds the
answer there, and asks nobody.
"""

import copy
import itertools
import logging
import threading
import uuid
from collections.abc import Sequence
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
from .postgres import AWAY
from .redis_connections import renew_connections
from .scripts import load_script
from .store_states import public_state, report

CHECK_SECONDS = 1.0
RETRY_SECONDS = 5

_OF_A_CLUSTER = (ClusterCrossSlotError, ClusterDownError, MovedError)

_log = logging.getLogger(__name__)


class UnfitRedisError(UnavailableError):
    """Redis must not be used. `/readyz` and the log say why; a client is not told."""

    def __init__(self) -> None:
        super().__init__(
            "Redis is not set up for this service; /readyz says why", retry_after=RETRY_SECONDS
        )


@dataclass(frozen=True, slots=True)
class RedisRequirements:
    """What a Redis must do, and what is allowed knowingly."""

    name: str = "Redis"
    variable: str = "IOT_REDIS_URL"
    durable: bool = True
    """Whether it must write to its disk."""
    may_evict: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found at a look. An empty sentence: nothing is wrong."""

    unknown: str = ""
    """Why the database does not tell whose it is. Nothing is wrong with Redis."""
    foreign: str = ""
    """Why nothing may be written to it or taken from it."""
    unsafe: str = ""
    """Why it must not be trusted with readings; what it holds may be taken."""
    unchecked: str = ""
    """What it does not tell."""
    evicts: bool = False
    unfit: bool = field(init=False)
    """Whether anything is wrong."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "unfit", bool(self.unknown or self.fault))

    @property
    def fault(self) -> str:
        """What is wrong with Redis."""
        return "; ".join(filter(None, (self.foreign, self.unsafe)))


class RedisWatch:
    """Looks at one Redis, on behalf of all threads of a process."""

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
        self._duties = requirements
        self._claim = load_script(client, "owner_claim.lua")
        self._verdict: Verdict | None = None
        self._told: Verdict | None = None
        self._looking = threading.Lock()
        self._looks = 0
        self._error: Exception | None = None
        self._numbers = itertools.count(1)
        self._kept = 0
        """The number of the look that `_verdict` is of."""
        self._keeping = threading.Lock()

    def require_safe(self) -> None:
        """Refuse to acknowledge readings unless Redis is this installation's and keeps them.

        Raises:
            UnfitRedisError: it is not, or does not.
            RedisError, psycopg.Error: it is not known, and a part is away.
        """
        verdict = self._verdict or self._first_look()
        if verdict.unfit:
            raise UnfitRedisError

    def require_ours(self) -> None:
        """Refuse to take anything from a Redis unless it is this installation's.

        Raises as `require_safe`.
        """
        verdict = self._verdict or self._first_look()
        if verdict.unknown or verdict.foreign:
            raise UnfitRedisError

    def confirm_ours(self) -> None:
        """As `require_ours`, but look first."""
        self.check()
        self.require_ours()

    def keeps_indexes(self) -> bool:
        """Whether what is read from it can be relied on to be complete. Raises as `require_safe`,
        but only while Redis is away: without Postgres it can't be told whose it is.
        """
        try:
            verdict = self._verdict or self._first_look()
        except AWAY:
            return True
        return not (verdict.unknown or verdict.foreign or verdict.evicts)

    def state(self) -> str:
        """Look, and say what there is to say to people: `ok`, or what is wrong."""
        try:
            return self.check().fault or "ok"
        except RedisError as error:
            return public_state(_log, self._duties.name, error)
        except AWAY:
            return "not checked: Postgres is away"

    def invalidate(self) -> None:
        """Look again before the next use: the database may be another one. A look that is under
        way does not count.
        """
        self._keep(next(self._numbers), None)

    def check(self) -> Verdict:
        """Look now. Of looks that overlap, the one that began last decides.

        Raises:
            RedisError, psycopg.Error: a part is away; nothing is known any more.
        """
        number = next(self._numbers)
        try:
            verdict = self._look()
        except Exception:
            self._keep(number, None)
            raise
        if self._keep(number, verdict) and verdict != self._told:
            self._tell(verdict)
        return verdict

    def _keep(self, number: int, verdict: Verdict | None) -> bool:
        """Keep the verdict of a look, unless a look that began later has ended; whether it was
        kept.
        """
        with self._keeping:
            if number < self._kept:
                return False
            self._kept, self._verdict = number, verdict
            return True

    def _first_look(self) -> Verdict:
        """Look, once for all who wait for it."""
        seen = self._looks
        with self._looking:
            if self._looks == seen:
                self._error = None
                try:
                    self.check()
                except Exception as error:  # noqa: BLE001 - raised to all who wait
                    self._error = copy.copy(error)
                self._looks += 1
            if self._error is not None:
                # A copy: the traceback of one holds what its request holds.
                raise copy.copy(self._error)
            return self._verdict or self.check()

    def _look(self) -> Verdict:
        name = self._duties.name
        info = self._info()
        if info.get("cluster_enabled"):
            return Verdict(foreign=_cluster(name))
        if info.get("role") == "slave":
            # The name in the URL may lead to the new master. A process that sends nothing would
            # notice at its next request, and refuse that one.
            renew_connections(self._client)
        unmarked = ""
        try:
            foreign = self._foreign()
        except SettingsError as error:
            return Verdict(unknown=str(error))
        except MasterDownError:  # redis-py derives it from ClusterDownError
            raise
        except _OF_A_CLUSTER:
            return Verdict(foreign=_cluster(name))
        except NoPermissionError:
            foreign, unmarked = "", _unmarked(name, self._keys[0])
        evicts, unsafe, unchecked = _judge(self._loaded(info), self._duties)
        return Verdict(
            foreign=foreign, unsafe=unsafe, unchecked=unmarked or unchecked, evicts=evicts
        )

    def _loaded(self, info: dict[str, Any]) -> dict[str, Any]:
        """INFO of a server that has loaded its data.

        While a server loads, its INFO says `aof_enabled:0`, whatever its appendonly is: it writes
        nothing to the AOF meanwhile (Redis 6.2, 7.0; Valkey 9). The server may have loaded its data
        since `info` was read, since redis-py sends a command again that is answered LOADING.

        Raises:
            BusyLoadingError: it still loads.
        """
        if _loads(info):
            info = self._info()
        if _loads(info):
            raise BusyLoadingError("as INFO says", status_code="LOADING")
        return info

    def _foreign(self) -> str:
        """Mark Redis unless it is marked; why it is not ours, if it is not."""
        away: psycopg.Error | None = None
        ours = ""
        try:
            ours = str(self._installation.get_id())
        except AWAY as error:
            away = error
        answers = cast("list[bytes]", self._claim(keys=self._keys, args=[ours]))
        owner, keyring = (each.decode(errors="replace") for each in answers)
        mark = self._keyring_mark(owner)
        if away is not None:
            if mark and mark == keyring:
                return ""  # a process with this keyring has seen the database to it
            raise away
        if owner != ours:
            return _foreign(self._duties, owner, ours)
        if mark and not keyring:
            self._client.set(self._keys[1], mark)
        elif mark and mark != keyring:
            return KEYRING_MISMATCH.format(where=self._duties.name)
        return ""

    def _keyring_mark(self, owner: str) -> str:
        if self._installation.keyring_mark is None:
            return ""
        try:
            return self._installation.keyring_mark(uuid.UUID(owner)).hex()
        except ValueError:  # no mark of ours
            return ""

    def _info(self) -> dict[str, Any]:
        try:
            return self._client.info()
        except NoPermissionError:
            return {}
        except ResponseError as error:  # renamed, as managed ones do
            if str(error).startswith("unknown command"):
                return {}
            raise

    def _tell(self, verdict: Verdict) -> None:
        if verdict.unfit:
            _log.error("not ready: %s", verdict.unknown or verdict.fault)
        elif self._told is not None and self._told.unfit:
            _log.info("%s is as it must be", self._duties.name)
        if verdict.unchecked:
            _log.warning("%s", verdict.unchecked)
        self._told = verdict


def _loads(info: dict[str, Any]) -> bool:
    return bool(info.get("loading") or info.get("async_loading"))


def _judge(info: dict[str, Any], requirements: RedisRequirements) -> tuple[bool, str, str]:
    """Return whether Redis evicts keys, which settings are unsafe, and which are not known."""
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
        "installation it belongs to: grant the permissions in production/redis-users.acl"
    )


def _cluster(name: str) -> str:
    return (
        f"{name} is a Redis Cluster, which is not supported: use a single Redis, with replicas and "
        "Sentinels (redis+sentinel://) for failover"
    )


def _foreign(requirements: RedisRequirements, owner: str, ours: str) -> str:
    return (
        f"{requirements.name} belongs to the installation {owner[:36]}, and the database to "
        f"{ours}: set another database number in {requirements.variable}, or an "
        "IOT_REDIS_KEY_PREFIX; or, if this Redis and this database belong "
        "together, run `iot-sensor claim-redis`"
    )


class RedisWatchThread(threading.Thread):
    """Looks again every second, so that requests need not."""

    def __init__(self, watches: Sequence[RedisWatch]) -> None:
        super().__init__(name="redis-watcher", daemon=True)
        self._watches = watches
        self._stopping = threading.Event()

    def run(self) -> None:
        """Look until stopped."""
        while True:
            for watch in self._watches:
                try:
                    watch.check()
                except (RedisError, *AWAY) as error:
                    _log.debug("Redis can't be looked at: %s", error)
                except Exception as error:  # noqa: BLE001 - without this thread, nothing warns
                    report(_log, "Redis is not looked at", error)
            if self._stopping.wait(CHECK_SECONDS):
                return

    def stop(self) -> None:
        """End the thread, at its next look at the latest."""
        self._stopping.set()
