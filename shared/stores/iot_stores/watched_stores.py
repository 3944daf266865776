"""The watches over the stores of a process, as its settings have them."""

from redis import Redis

from iot_models.names import KeyNames
from iot_models.settings import Settings

from .installation import Installation
from .redis_watch import RedisRequirements, RedisWatch


def watch_redis(client: "Redis", installation: Installation, settings: Settings) -> RedisWatch:
    """Watch the Redis of the backlog."""
    requirements = RedisRequirements(
        durable=not settings.redis_allow_no_aof, may_evict=bool(settings.redis_allow_eviction)
    )
    return RedisWatch(client, KeyNames(settings.redis_key_prefix), installation, requirements)


def watch_hot_window(client: "Redis", installation: Installation, settings: Settings) -> RedisWatch:
    """Watch the hot window's own Redis: what it loses is read from Postgres, but it must not lose
    an index and keep the rest.
    """
    requirements = RedisRequirements(
        "the hot window's Redis", "IOT_HOT_WINDOW_REDIS_URL", durable=False
    )
    return RedisWatch(client, KeyNames(settings.redis_key_prefix), installation, requirements)
