"""All kinds of faults."""

import signal
from collections.abc import Callable
from functools import partial

from system.faults import alerts, clocks, failovers, letters, network, refusals, signals, strangers
from system.faults.fault import ACKNOWLEDGE, STORE, Kind
from system.faults.small_disk import DISK_FULL

_ALL = frozenset({ACKNOWLEDGE, STORE})
_STORING = frozenset({STORE})
_NONE: frozenset[str] = frozenset()
_SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM}


def _signalled(
    target: str, name: str, stops: frozenset[str], act: Callable[..., None]
) -> list[Kind]:
    return [
        Kind(f"{name}: {said}", target, stops, partial(act, number=number))
        for said, number in _SIGNALS.items()
    ]


def _network(store: str, stops: frozenset[str]) -> list[Kind]:
    acts = {"slow": network.slow, "cut": network.cut, "holding everything": network.hole}
    return [
        Kind(f"network to {store}: {how}", store, stops, partial(act, store=store))
        for how, act in acts.items()
    ]


def _wrong_clocks() -> list[Kind]:
    sides = {"behind": clocks.BEHIND, "ahead": clocks.AHEAD}
    whose = {"API": ("api", _ALL, clocks.api), "a writer": ("writer", _NONE, clocks.a_writer)}
    return [
        Kind(f"{name}: clock 61 days {side}", target, stops, partial(act, ahead=ahead))
        for name, (target, stops, act) in whose.items()
        for side, ahead in sides.items()
    ]


_CLOCKS = _wrong_clocks()
WRONG_CLOCKS = frozenset(kind.name for kind in _CLOCKS)
"""Names of the kinds that need a C compiler."""

KINDS: tuple[Kind, ...] = (
    *_signalled("api", "API worker", _NONE, signals.api_worker),
    *_signalled("api", "API master", _ALL, signals.api_master),
    *_signalled("writer", "a writer", _NONE, signals.a_writer),
    *_signalled("writer", "both writers", _STORING, signals.both_writers),
    *_signalled("redis", "Redis", _ALL, signals.redis),
    Kind("Redis: frozen", "redis", _ALL, signals.redis_frozen),
    Kind("Redis: out of memory", "redis", _ALL, refusals.redis_full),
    Kind("Redis: set to evict", "redis", _ALL, refusals.redis_evicting),
    Kind(
        "Redis: endpoint moved",
        "redis",
        _ALL,
        failovers.move_redis,
        prepare=failovers.wait_redis_in_step,
    ),
    Kind("Redis: entry damaged", "redis", _NONE, letters.damaged_entry, alert=alerts.DEAD_LETTERS),
    *_network("redis", _ALL),
    Kind(
        "Postgres: SIGKILL", "postgres", _STORING, partial(signals.postgres, number=signal.SIGKILL)
    ),
    Kind("Postgres: SIGTERM, then SIGINT", "postgres", _STORING, signals.postgres_smart),
    Kind("Postgres: SIGINT", "postgres", _STORING, partial(signals.postgres, number=signal.SIGINT)),
    Kind(
        "Postgres: SIGQUIT", "postgres", _STORING, partial(signals.postgres, number=signal.SIGQUIT)
    ),
    Kind("Postgres: a backend's SIGKILL", "postgres", _STORING, signals.postgres_backend),
    Kind(
        "Postgres: frozen", "postgres", _STORING, signals.postgres_frozen, alert=alerts.BACKLOG_OLD
    ),
    Kind("Postgres: read-only", "postgres", _STORING, refusals.postgres_read_only),
    Kind(DISK_FULL, "postgres", _STORING, refusals.postgres_disk_full),
    Kind(
        "Postgres: sessions stay read-only",
        "postgres",
        _STORING,
        refusals.postgres_sessions_read_only,
    ),
    Kind(
        "Postgres: endpoint moved",
        "postgres",
        _STORING,
        failovers.move_postgres,
        prepare=failovers.make_standby,
    ),
    Kind(
        "Postgres: restored, newest rows gone",
        "postgres",
        _STORING,
        failovers.restore_postgres,
        prepare=failovers.make_standby,
        also=("redis", "writer"),
        holds=True,
    ),
    Kind(
        "Postgres: rows of vaults gone",
        "postgres",
        _STORING,
        failovers.lose_vault_rows,
        also=("redis",),
        holds=True,
    ),
    *_network("postgres", _STORING),
    *_CLOCKS,
    Kind("a second release", "release", _NONE, strangers.second_release),
)
