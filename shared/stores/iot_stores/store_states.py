"""States in which Redis or Postgres can't serve, as opposed to defects of this service.

This module alone decides which errors are states: for Redis by the code word of the error, for
Postgres by its SQLSTATE. docs/reliability.md lists all states.
"""

import logging
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

import psycopg
from psycopg import errors
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from iot_models.errors import IotError

REPORT_SECONDS = 10.0
"""Time after which a state that lasts is logged again."""
_MAX_CHARACTERS = 300
_AWAY = "away"

_CLUSTER = "it is a Redis Cluster, which does not work with this service"
REDIS_STATES: Mapping[str, str] = {
    _AWAY: "it can't be reached, or does not answer in time",
    "READONLY": "the server is a replica",
    "UNBLOCKED": "the server became a replica",
    "MASTERDOWN": "the server is a replica that has no connection to its master",
    "NOREPLICAS": "fewer replicas are up to date than min-replicas-to-write requires",
    "MISCONF": "it can't write to its disk",
    "LOADING": "it loads its data",
    "BUSY": "a script blocks it",
    "UNKILLABLE": "a script that has written can't be killed",
    "KILLED": "an administrator killed the script",
    "OOM": "it has no memory left (maxmemory)",
    "WRONGTYPE": "a key holds a value of another type, which another program wrote",
    "MAXCLIENTS": "it takes no more connections (maxclients)",
    "NOPERM": "the user of the URL lacks a permission",
    "NOAUTH": "it requires a password, and the URL has none",
    "WRONGPASS": "it refuses the user or the password of the URL",
    "DENIED": "its protected mode refuses connections from other machines",
    "NODB": "it does not have the database of the URL",
    "NOCOMMAND": "it does not know a command: Redis 6.2 or later is needed",
    "CLUSTERDOWN": _CLUSTER,
    "CROSSSLOT": _CLUSTER,
    "TRYAGAIN": _CLUSTER,
    "MOVED": _CLUSTER,
    "ASK": _CLUSTER,
}
"""Meaning of each state of Redis, by code word. Some error messages show a state without its code
word: see `_REDIS_SENTENCES`."""

_REDIS_SENTENCES: Mapping[str, re.Pattern[str]] = {
    "MAXCLIENTS": re.compile("max number of clients"),
    # Inside a script. Redis 6.2 and 7.0 use the first wording.
    "NOPERM": re.compile("The user executing the script can't|ACL failure in script"),
    "KILLED": re.compile("Script killed by user"),
    "NODB": re.compile("DB index is out of range|SELECT is not allowed"),
    "NOCOMMAND": re.compile("unknown (redis )?(sub)?command", re.IGNORECASE),
    "WRONGPASS": re.compile("invalid password|AUTH <password> called|Client sent AUTH"),
    "READONLY": re.compile("The previous master is now a slave"),  # redis-py, of its Sentinels
}
"""Most error messages of Redis begin with a code word, such as `READONLY`. These patterns match
messages without one. Each key says under which code word in `REDIS_STATES` the state is found."""
_ERR = re.compile(
    r"(ERR )?(Error running script \(call to \w+\): )?(@user_script: ?\d+: )*"
    r"(EXECABORT Transaction discarded because of: )?-?"
)
"""Text that may stand before the code word of an error message (such as `OOM`), if a script has
called the refused command."""
# Redis repeats arguments of unknown commands: they may hold readings or passwords.
_DATA = re.compile(r",? with args beginning with.*", re.DOTALL)
_PIPELINE = " of pipeline caused error: "

_STATEMENT = "it could not execute a statement"
POSTGRES_STATES: Mapping[str, str] = {
    _AWAY: "it can't be reached, or does not answer in time",
    "read_only_sql_transaction": "the server is a standby, or read-only",
    "cannot_connect_now": "it starts, recovers or shuts down",
    "admin_shutdown": "it shuts down, or an administrator ended the session",
    "crash_shutdown": "it recovers from a crash",
    "too_many_connections": "it takes no more connections",
    "disk_full": "its disk is full",
    "out_of_memory": "it has no memory left",
    "insufficient_privilege": "the user of the URL lacks a permission",
    "invalid_authorization_specification": "it refuses the user or the password of the URL",
    "invalid_catalog_name": "it does not have the database of the URL",
    "tls_refused": "it refuses TLS, or its certificate is not trusted",
    "undefined_table": "the database has no schema: run `iot-sensor migrate`",
    "undefined_function": "the database's schema is not whole: run `iot-sensor migrate --grant`",
    "invalid_schema_name": "the user of the URL may not use the database's schema",
    "query_canceled": "a statement took too long, or was canceled",
    "lock_not_available": "a lock was not free in time",
    "idle_in_transaction_session_timeout": "it ended a session that waited in a transaction",
}
"""Meaning of each state of Postgres, by condition name. For a state without an entry here, the text
of `_STATEMENT` is used."""
_POSTGRES_SENTENCES: Mapping[str, re.Pattern[str]] = {
    "too_many_connections": re.compile(
        "too many (clients|connections)|connection slots|no more connections allowed"  # PgBouncer
    ),
    "cannot_connect_now": re.compile(
        "starting up|shutting down|recovery mode|not (yet |currently )?accepting connections"
    ),
    "admin_shutdown": re.compile("terminating connection due to administrator command"),
    "insufficient_privilege": re.compile("permission denied for database"),
    "invalid_catalog_name": re.compile('database ".*" does not exist|no such database'),
    "invalid_authorization_specification": re.compile(
        'authentication failed|no password supplied|no pg_hba.conf entry|role ".*" does not exist|'
        "not permitted to log in"
    ),
    # With TLS, the end of a connection is an SSL error, too.
    "tls_refused": re.compile(
        "certificate|SSL(?! SYSCALL| connection has been closed| negotiation packet|_read|_write"
        "| error: unexpected eof)"
    ),
    "read_only_sql_transaction": re.compile("session is read-only|in hot standby mode"),
}
"""Patterns of the messages of connection errors, by condition name in `POSTGRES_STATES`. libpq
gives no SQLSTATE for connection errors, and PgBouncer gives most of its errors the same one."""
_CONNECTION_SQLSTATES = "08"
"""Prefix of the SQLSTATEs of connection errors. They do not say why there is no connection."""

POSTGRES_UNAVAILABLE = (
    psycopg.OperationalError,
    errors.ReadOnlySqlTransaction,
    errors.IdleInTransactionSessionTimeout,
    errors.TransactionTimeout,
    errors.InsufficientPrivilege,
    errors.InvalidCatalogName,
    errors.UndefinedTable,
    errors.UndefinedFunction,
    errors.InvalidSchemaName,
    errors.InternalError_,
    errors.DataCorrupted,
    errors.IndexCorrupted,
)
"""Errors raised while Postgres can't serve."""
_STATEMENT_SQLSTATES = ("3F", "40", "42P01", "42883", "54", "55", "57014")
"""Prefixes of SQLSTATEs that concern a statement. Another server would answer the same."""


@dataclass(frozen=True, slots=True)
class StoreState:
    """A state in which a store can't serve."""

    store: str
    code: str
    meaning: str
    sentence: str
    """The store's own message in one line. Only for the log: it may name users and hosts."""

    @property
    def public(self) -> str:
        """The state for `/readyz`: without `sentence`, because `/readyz` needs no token."""
        return _AWAY if self.code == _AWAY else f"{self.code}: {self.meaning}"

    def __str__(self) -> str:
        if self.code == _AWAY:
            return f"{self.store} is away: {self.sentence}"
        return f"{self.store} answers {self.code} ({self.meaning}): {self.sentence}"


def state_of(error: BaseException) -> StoreState | None:
    """Return the state that an error shows, or None if the error is a defect of this service."""
    if isinstance(error, RedisError):
        return _redis_state(error)
    if isinstance(error, POSTGRES_UNAVAILABLE):
        return _postgres_state(error)
    return None


def is_wrong_type(answer: object) -> bool:
    """Return whether an answer is Redis's error for a key that holds a value of another type."""
    state = state_of(answer) if isinstance(answer, RedisError) else None
    return state is not None and state.code == "WRONGTYPE"


def is_server_state(error: psycopg.Error) -> bool:
    """Return whether the error concerns the server, not the statement."""
    return not (error.sqlstate or "").startswith(_STATEMENT_SQLSTATES)


def _redis_state(error: RedisError) -> StoreState | None:
    message = str(error).rpartition(_PIPELINE)[2]
    # For errors with their own class, redis-py cuts the code word off the message.
    if error.status_code and not message.startswith(error.status_code):
        message = f"{error.status_code} {message}"
    sentence = _one_line(_DATA.sub("", message))
    prefix = _ERR.match(sentence)
    code = sentence[prefix.end() if prefix else 0 :].partition(" ")[0]
    if code not in REDIS_STATES:
        matching = (name for name, words in _REDIS_SENTENCES.items() if words.search(sentence))
        unreachable = isinstance(error, RedisConnectionError | RedisTimeoutError | InvalidResponse)
        code = next(matching, _AWAY if unreachable else "")
    if not code:
        return None
    return StoreState("Redis", code, REDIS_STATES[code], sentence)


def _postgres_state(error: psycopg.Error) -> StoreState:
    sentence = _one_line(error.diag.message_primary or str(error))
    if error.sqlstate and not error.sqlstate.startswith(_CONNECTION_SQLSTATES):
        try:
            known: type[Exception] = errors.lookup(error.sqlstate)
        except KeyError:  # of a newer server, a pooler or a trigger
            known = type(error)
        code = re.sub("(?<=[a-z])(?=[A-Z])", "_", known.__name__.rstrip("_")).lower()
    else:
        matching = (name for name, words in _POSTGRES_SENTENCES.items() if words.search(sentence))
        code = next(matching, _AWAY)
    return StoreState("Postgres", code, POSTGRES_STATES.get(code, _STATEMENT), sentence)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_MAX_CHARACTERS]


_reported: dict[tuple[str, str, str], tuple[float, int]] = {}
"""By the name of the logger, and the consequence and the state that the log line names: time of the
last such line, and number of lines left out since."""


def report(logger: logging.Logger, consequence: str, error: Exception) -> None:
    """Log an error of a store and its consequence: each state at most once in `REPORT_SECONDS`."""
    state = state_of(error)
    code = "" if state is None else f"{state.store} {state.code}"
    key = logger.name, consequence, code
    now = time.monotonic()
    logged_at, left_out = _reported.get(key, (-REPORT_SECONDS, 0))
    if now - logged_at < REPORT_SECONDS:
        _reported[key] = logged_at, left_out + 1
        return
    _reported[key] = now, 0
    suffix = f" ({left_out} similar lines were not logged)" if left_out else ""
    message = _one_line(str(error)) if state is None else str(state)
    if state is None and not isinstance(error, IotError):
        message = f"{type(error).__name__}: {message}"
    logger.warning("%s; %s%s", message, consequence, suffix)


def public_state(logger: logging.Logger, name: str, error: Exception) -> str:
    """Return the state of an error for `/readyz`, and log the store's own message."""
    report(logger, f"/readyz reports this state of {name}", error)
    state = state_of(error)
    return _AWAY if state is None else state.public
