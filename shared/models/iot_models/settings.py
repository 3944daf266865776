"""All settings, read once at startup from `IOT_*` environment variables."""

import os
from collections.abc import Mapping, MutableMapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from . import names
from .addresses import parse_bind, parse_metrics_address
from .errors import SettingsError
from .logs import parse_format
from .origins import parse_origins
from .scopes import parse_anonymous_scopes
from .setting_values import read_value, variable

_PARSED = {
    "anonymous_scopes": parse_anonymous_scopes,
    "bind": parse_bind,
    "cors_origins": parse_origins,
    "log_format": parse_format,
    "metrics_address": parse_metrics_address,
    "redis_key_prefix": names.parse_key_prefix,
}
"""Parsers that check the text of a field at startup."""
_STRAY_LIBPQ_VARIABLES = (
    *("PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGUSER", "PGSERVICE", "PGSERVICEFILE"),
    *("PGSYSCONFDIR", "PGOPTIONS", "PGAPPNAME", "PGCONNECT_TIMEOUT", "PGCLIENTENCODING"),
    *("PGDATESTYLE", "PGTZ", "PGGEQO", "PGTARGETSESSIONATTRS", "PGLOADBALANCEHOSTS"),
)
DEFAULT_SCRYPT_LOG2_N = 17
MIN_SCRYPT_LOG2_N, MAX_SCRYPT_LOG2_N = 10, 20
MIN_BACKLOG_BYTES = 2**20


def _setting(
    default: Any, meaning: str, *, minimum: int = 0, maximum: int = 2**53, secret: bool = False
) -> Any:
    """Return a field of `Settings`. The default `MISSING` makes the setting required."""
    metadata = {"meaning": meaning, "minimum": minimum, "maximum": maximum, "secret": secret}
    return field(default=default, repr=not secret, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of all processes. Field `x` is read from the variable `IOT_X`.

    A secret field (a URL with a password) may also be read from the file that `IOT_X_FILE` names.
    """

    redis_url: str = _setting(
        "redis://127.0.0.1:6379/0",
        "Redis of the backlog and of the jobs. Also of the hot window, unless "
        "IOT_HOT_WINDOW_REDIS_URL is set.",
        secret=True,
    )
    hot_window_redis_url: str = _setting(
        "", "Redis of the hot window. Empty: the Redis of IOT_REDIS_URL.", secret=True
    )
    redis_key_prefix: str = _setting(
        "",
        "Prefix of every key in Redis, including the colon, for example berlin:. Releases that "
        "share a Redis need different prefixes. Empty: no prefix.",
    )
    postgres_url: str = _setting(MISSING, "PostgreSQL of the history, as a libpq URL.", secret=True)
    keyring_file: str = _setting(
        MISSING,
        "File with the master keys and the pepper; for a writer, a file with the writer's keys "
        "is enough. Re-read when it changes.",
    )
    tokens_file: str = _setting(
        "",
        "File with the hashes of the bearer tokens. Re-read when it changes. Empty: no token "
        "is required.",
    )
    anonymous_scopes: str = _setting(
        "",
        "Scopes for which clients need no token, separated by commas: ingest, read, audit.",
    )

    shards: int = _setting(
        8,
        "Number of shards: streams of the backlog. Must be the same for every process.",
        minimum=1,
        maximum=names.MAX_SHARDS,
    )
    hot_window_seconds: int = _setting(
        300,
        "How long a segment stays in the hot window, in seconds. A read of the last n seconds "
        "needs no Postgres if n is smaller than this value.",
        maximum=86_400,
    )
    retention_days: int = _setting(
        0,
        "Age in days at which readings are deleted. 0: readings are kept forever.",
        maximum=36_500,
    )
    backlog_max_bytes: int = _setting(
        512 * 2**20,
        "Maximum size of the backlog, in sealed bytes. When it is full, PUTs are answered 503.",
        minimum=MIN_BACKLOG_BYTES,
    )

    clock_skew_max_seconds: int = _setting(
        300,
        "Maximum difference between the clocks of a process and of Redis, in seconds. If they "
        "differ by more, the process is not ready, and /readyz says which clock is wrong.",
        minimum=1,
    )

    redis_allow_eviction: int = _setting(
        0,
        "1: accept readings even if the maxmemory-policy of Redis is not noeviction. Redis may "
        "then evict acknowledged readings when its memory is full.",
        maximum=1,
    )
    redis_allow_no_aof: int = _setting(
        0,
        "1: accept readings even if Redis has no AOF (appendonly no). A crash of Redis then "
        "loses all readings that are not stored yet, unless a replica is promoted.",
        maximum=1,
    )
    redis_wait_replicas: int = _setting(
        0,
        "Number of Redis replicas that must have a reading before the API acknowledges the "
        "reading, and before a writer stores it.",
        maximum=10,
    )
    redis_wait_fsync: int = _setting(
        0,
        "1: acknowledge and store readings only when they are on the disks of Redis and of "
        "IOT_REDIS_WAIT_REPLICAS replicas (WAITAOF, in Redis 7.2 and Valkey).",
        maximum=1,
    )
    idempotency_seconds: int = _setting(
        86_400, "How long a request with an Idempotency-Key is remembered, in seconds.", minimum=1
    )
    idempotency_max_requests: int = _setting(
        200_000,
        "Maximum number of remembered requests with an Idempotency-Key. One client may have a "
        "quarter of this number. When either limit is reached, requests with a new key are "
        "refused. A remembered request takes 250 bytes of Redis, or more if it is large.",
        minimum=1,
    )
    ack_stored_seconds: int = _setting(
        10,
        "Seconds after which a PUT with ack=stored is answered 202 if its readings are not "
        "stored yet.",
        maximum=300,
    )

    max_body_bytes: int = _setting(
        16 * 2**20,
        "Maximum size of a request body, compressed or decompressed.",
        minimum=1024,
        maximum=2**31,
    )
    max_readings: int = _setting(
        100_000, "Maximum number of readings in a request.", minimum=1, maximum=1_000_000
    )
    max_passwords: int = _setting(
        50, "Maximum number of passwords in a request.", minimum=1, maximum=100_000
    )
    max_password_bytes: int = _setting(
        1024, "Maximum length of a password, in bytes of UTF-8.", minimum=16, maximum=65_536
    )
    guess_limit: int = _setting(
        120,
        "Number of unknown passwords that one client (token and address; IPv6 by /64) may name "
        "in a minute, in reads and PUTs. 0: no limit.",
    )
    rate_limit_address: int = _setting(
        0, "Number of requests that one address may send in a minute (IPv6 by /64). 0: no limit."
    )
    rate_limit_token: int = _setting(
        0, "Number of requests that may be sent with one token in a minute. 0: no limit."
    )
    new_vault_limit: int = _setting(
        0,
        "Number of vaults that one client may create in a minute. 0: only IOT_GUESS_LIMIT "
        "applies, which counts new vaults too.",
    )
    max_openings: int = _setting(
        16,
        "Number of vaults that one PUT may open or create, if IOT_SCRYPT_LOG2_N is 17. Each step "
        "below 17 doubles the number, and each step above halves it. If a PUT needs more, it opens "
        "this number of vaults and is answered 429. The repeated PUT finds these vaults open.",
        minimum=1,
        maximum=100_000,
    )
    live_listeners: int = _setting(
        100,
        "Maximum number of live streams of an API process. They count as connections "
        "(IOT_API_CONNECTIONS).",
    )
    live_listeners_per_client: int = _setting(
        20,
        "Maximum number of live streams of one client (token and address; IPv6 by /64) in an API "
        "process.",
    )
    live_heartbeat_seconds: int = _setting(
        15,
        "A live stream sends a heartbeat after this number of seconds without another event. Must "
        "be less than the read timeout of each proxy in front of the API.",
        minimum=1,
        maximum=3600,
    )
    trusted_proxies: int = _setting(
        0,
        "Number of proxies in front of the API whose X-Forwarded-For and X-Forwarded-Prefix "
        "are trusted.",
        maximum=16,
    )

    scrypt_log2_n: int = _setting(
        DEFAULT_SCRYPT_LOG2_N,
        "Cost of testing a password: log2 of scrypt's N (r=8, p=1). A higher cost applies to "
        "new vaults immediately, and to existing vaults when they are next used. It can't be "
        "lowered.",
        minimum=MIN_SCRYPT_LOG2_N,
        maximum=MAX_SCRYPT_LOG2_N,
    )
    vault_cache_seconds: int = _setting(
        3600,
        "Seconds after which an API process drops the data key of an unused vault. The next "
        "use of the vault costs a scrypt.",
        minimum=1,
    )
    compaction_after_seconds: int = _setting(
        900,
        "Seconds after its start in which an API process orders no compaction: processes of an "
        "earlier version, which can't read merged segments, may still run.",
    )
    upgrade_after_seconds: int = _setting(
        900,
        "Seconds from the migration of the database until a writer completes the upgrade from "
        "version 0.1. Until then, processes of version 0.1 may run. Afterwards they are not ready, "
        "and vaults get the new lookup.",
    )
    vault_cache_size: int = _setting(
        50_000,
        "Maximum number of open vaults in an API process (1 kB each), at least IOT_MAX_PASSWORDS.",
        minimum=1,
    )

    bind: str = _setting(
        "0.0.0.0:5000", "Address and port of the API. Write an IPv6 address in brackets: [::]:5000."
    )
    api_workers: int = _setting(2, "Number of API processes.", minimum=1, maximum=512)
    api_connections: int = _setting(
        1000, "Maximum number of connections of an API process.", minimum=1
    )
    api_connections_per_address: int = _setting(
        0,
        "Maximum number of connections of one client address in an API process (an IPv6 /64 "
        "counts as one address). 0: half of IOT_API_CONNECTIONS. Ignored if "
        "IOT_TRUSTED_PROXIES is set.",
    )
    api_request_memory_bytes: int = _setting(
        128 * 2**20,
        "Memory of an API process for request bodies and for answers to slow clients. When it is "
        "used up, requests are answered 503. If the large bodies of one client would take more "
        "than half of it, they are answered 429. A value below four times IOT_MAX_BODY_BYTES "
        "counts as four times IOT_MAX_BODY_BYTES.",
        minimum=2**20,
    )
    api_postgres_pool: int = _setting(
        4,
        "Maximum number of Postgres connections of an API process. Reads use all but one.",
        minimum=2,
        maximum=100,
    )
    keepalive_seconds: int = _setting(
        100,
        "How long an API process keeps an idle connection open, in seconds. Must exceed the "
        "idle timeout of the load balancer: otherwise it sends requests over closing connections.",
        minimum=1,
        maximum=86_400,
    )
    tls_certificate: str = _setting(
        "",
        "Certificate file (PEM), with its chain. If set, the API serves https. The API reads the "
        "file and the key again when they change, and needs no restart.",
    )
    tls_key: str = _setting("", "Private key file (PEM) of the certificate.")
    tls_client_ca_file: str = _setting(
        "",
        "File (PEM) with the certificates of the authorities that issue client certificates. If "
        "set, the DNS name of a client's certificate stands for the token of that name. Re-read "
        "when it changes. Needs IOT_TLS_CERTIFICATE and IOT_TOKENS_FILE.",
    )
    tls_client_crl_file: str = _setting(
        "",
        "File (PEM) with a certificate revocation list of each authority that issues client "
        "certificates. If set, the API refuses a revoked certificate, and all certificates of an "
        "authority that has no valid list here. Re-read when it changes.",
    )
    tls_client_required: int = _setting(
        0,
        "1: the API refuses connections without a client certificate, including those of health "
        "checks. 0: a client without a certificate needs a token.",
        maximum=1,
    )
    audit_vaults: int = _setting(
        0,
        "1: record each new vault in the audit log. 0: do not record new vaults, because clients "
        "of the old server may expect an empty audit log.",
        maximum=1,
    )
    audit_reads: int = _setting(
        0,
        "1: record each read of readings in the audit log, before its response: the name of the "
        "token, the vault's id, the range and the number of readings. A read that can't be "
        "recorded is answered 503.",
        maximum=1,
    )
    cors_origins: str = _setting(
        "*",
        "Origins that browsers may call from, separated by commas: scheme, host and port, for "
        "example https://app.example.org:8443. `https://*.example.org` matches every host with "
        "exactly one more label. `*` matches every origin. `null` matches pages that have no "
        "origin, for example local files.",
    )
    page: int = _setting(1, "1: serve the live page at `/`. 0: there is no page.", maximum=1)
    metrics_address: str = _setting("0.0.0.0", "Address of /metrics.")  # noqa: S104
    api_metrics_port: int = _setting(
        9100, "Port of the API's /metrics. 0: no metrics are served.", maximum=65_535
    )
    writer_metrics_port: int = _setting(
        9101, "Port of the writer's /metrics. 0: no metrics are served.", maximum=65_535
    )
    log_level: str = _setting("INFO", "DEBUG, INFO, WARNING or ERROR.")
    log_format: str = _setting(
        "text", "text: lines for a terminal. json: one JSON object per line, for a log collector."
    )
    log_requests: int = _setting(
        0,
        "1: log each request, and each segment that a writer stores, with the names of the entries "
        "that it was made from. 0: log only errors, refusals and slow requests, in limited number.",
        maximum=1,
    )
    log_slow_milliseconds: int = _setting(
        1000, "Duration from which a request is logged as slow, in milliseconds. 0: none is logged."
    )


def load(environ: Mapping[str, str] = os.environ) -> Settings:
    """Read and check all settings.

    Raises:
        SettingsError: a setting is missing or invalid. The message names its variable.
    """
    settings = Settings(**{each.name: read_value(each, environ) for each in fields(Settings)})
    if bool(settings.tls_certificate) != bool(settings.tls_key):
        raise SettingsError("IOT_TLS_CERTIFICATE and IOT_TLS_KEY: set both or neither")
    if settings.tls_client_ca_file and not (settings.tls_certificate and settings.tokens_file):
        raise SettingsError(
            "IOT_TLS_CLIENT_CA_FILE needs IOT_TLS_CERTIFICATE, IOT_TLS_KEY and IOT_TOKENS_FILE"
        )
    if settings.tls_client_crl_file and not settings.tls_client_ca_file:
        raise SettingsError("IOT_TLS_CLIENT_CRL_FILE needs IOT_TLS_CLIENT_CA_FILE")
    if settings.tls_client_required and not settings.tls_client_ca_file:
        raise SettingsError("IOT_TLS_CLIENT_REQUIRED=1 needs IOT_TLS_CLIENT_CA_FILE")
    if settings.log_level not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
        raise SettingsError("IOT_LOG_LEVEL must be one of DEBUG, INFO, WARNING, ERROR")
    for name, parse in _PARSED.items():
        try:
            parse(getattr(settings, name))
        except SettingsError as error:
            raise SettingsError(f"{variable(name)}: {error}") from None
    return settings


def drop_stray_libpq_variables(environ: MutableMapping[str, str] = os.environ) -> None:
    """Remove the libpq variables that would change the meaning of IOT_POSTGRES_URL.

    For example, PGHOSTADDR leads to another server, and PGSERVICE and PGOPTIONS add parameters.
    Variables for credentials and TLS (PGPASSWORD, PGPASSFILE, PGSSLMODE, PGSSLROOTCERT, ...) stay:
    they name no server, and a connection without them would be less safe.
    """
    for name in _STRAY_LIBPQ_VARIABLES:
        environ.pop(name, None)


def load_key_names(environ: Mapping[str, str] = os.environ) -> names.KeyNames:
    """Return the names of the Redis keys, for a process that needs no other setting yet.

    Raises:
        SettingsError: IOT_REDIS_KEY_PREFIX is invalid.
    """
    try:
        return names.parse_key_prefix(load_one("redis_key_prefix", environ))
    except SettingsError as error:
        raise SettingsError(f"IOT_REDIS_KEY_PREFIX: {error}") from None


def load_one(name: str, environ: Mapping[str, str] = os.environ) -> Any:
    """Read the field `name` alone, for commands that need no other setting.

    Raises:
        SettingsError: the setting is missing or invalid. The message names its variable.
    """
    (setting,) = (known for known in fields(Settings) if known.name == name)
    return read_value(setting, environ)


def describe() -> list[tuple[str, str, str]]:
    """Return variable, default and meaning of every setting, in order, for the docs."""
    rows = []
    for setting in fields(Settings):
        default = "(required)" if setting.default is MISSING else str(setting.default)
        rows.append((variable(setting.name), default, setting.metadata["meaning"]))
    return rows
