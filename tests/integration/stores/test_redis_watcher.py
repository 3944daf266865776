"""The thread that checks Redis every second."""

import psycopg
import pytest
from redis import Redis

from integration.stores.test_redis_watch import Database, watch_on
from iot_stores.redis_watch import RedisWatch, RedisWatchThread, UnfitRedisError
from iot_tools.local.redis_server import RedisServer
from support.waiting import wait_until


def is_refused(watch: RedisWatch) -> bool:
    """Return whether the process must not use Redis."""
    try:
        watch.require_safe()
    except UnfitRedisError:
        return True
    return False


@pytest.mark.parametrize(
    "error",
    [
        psycopg.OperationalError,
        psycopg.errors.InternalError_,
        psycopg.errors.ReadOnlySqlTransaction,
        psycopg.ProgrammingError,
    ],
)
def test_the_thread_continues_after_an_error_of_postgres(
    error: type[psycopg.Error], own_redis: RedisServer, postgres_url: str
) -> None:
    """Otherwise a process would not detect that Redis evicts keys."""
    database = Database(postgres_url)
    database.away, database.error = True, error
    with Redis.from_url(own_redis.url) as client:
        watch = watch_on(client, database)
        watcher = RedisWatchThread([watch])
        watcher.start()
        try:
            wait_until(lambda: database.asked, what="a check")
            database.away = False
            assert not is_refused(watch)
            client.config_set("maxmemory-policy", "allkeys-lru")
            wait_until(lambda: is_refused(watch), what="a check of the evicting Redis")
        finally:
            watcher.stop()
            watcher.join()
