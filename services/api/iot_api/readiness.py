"""Readiness: whether this process can acknowledge readings now."""

import logging

import psycopg
from redis import Redis
from redis.exceptions import RedisError

from iot_models.errors import SettingsError
from iot_stores.postgres import Pool, check_schema

_log = logging.getLogger(__name__)


class Readiness:
    """Redis must answer, and the database's schema must have been seen to be ours, once.

    After that Postgres may go away: the backlog holds what comes in.
    """

    def __init__(self, client: "Redis", pool: Pool) -> None:
        self._client = client
        self._pool = pool
        self._schema_seen = False

    def state(self) -> dict[str, str]:
        """What there is to say of each part: `ok`, or what is wrong with it."""
        return {"redis": self._redis(), "postgres": self._postgres()}

    def ready(self, state: dict[str, str]) -> bool:
        """Whether readings can be taken in, the parts being as `state` says."""
        return state["redis"] == "ok" and self._schema_seen

    def _redis(self) -> str:
        try:
            self._client.ping()
        except RedisError as error:
            _log.warning("Redis is away: %s", error)
            return "away"
        return "ok"

    def _postgres(self) -> str:
        try:
            with self._pool.connection(timeout=1) as connection:
                check_schema(connection)
        except SettingsError as error:
            self._schema_seen = False
            return str(error)
        except psycopg.OperationalError as error:
            _log.warning("Postgres is away: %s", error)
            return "away"
        self._schema_seen = True
        return "ok"
