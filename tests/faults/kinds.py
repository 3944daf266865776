"""The kinds of faults there are."""

import signal
from collections.abc import Callable
from functools import partial

from faults import clocks, network, refusals, releases, signals
from faults.clocks import CLOCK
from faults.fault import ACKNOWLEDGE, STORE, Kind
from faults.small_disk import DISK_FULL

_ALL = frozenset({ACKNOWLEDGE, STORE})
_STORING = frozenset({STORE})
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


KINDS: tuple[Kind, ...] = (
    *_signalled("api", "API worker", frozenset(), signals.api_worker),
    *_signalled("api", "API master", _ALL, signals.api_master),
    *_signalled("writer", "a writer", frozenset(), signals.a_writer),
    *_signalled("writer", "both writers", _STORING, signals.both_writers),
    *_signalled("redis", "Redis", _ALL, signals.redis),
    Kind("Redis: frozen", "redis", _ALL, signals.redis_frozen),
    Kind("Redis: out of memory", "redis", _ALL, refusals.redis_full),
    Kind("Redis: evicts", "redis", frozenset({ACKNOWLEDGE}), refusals.redis_evicts),
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
    Kind("Postgres: frozen", "postgres", _STORING, signals.postgres_frozen),
    Kind("Postgres: read-only", "postgres", _STORING, refusals.postgres_read_only),
    Kind(DISK_FULL, "postgres", _STORING, refusals.postgres_disk_full),
    *_network("postgres", _STORING),
    Kind("a second release on the same Redis", "release", frozenset(), releases.second_release),
    Kind(f"API: {CLOCK}", "api clock", frozenset(), clocks.api_clock),
    Kind(f"a writer: {CLOCK}", "writer clock", frozenset(), clocks.writer_clock),
)
