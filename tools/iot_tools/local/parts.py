"""The children of `make run`: what each runs, and with which settings."""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from iot_models import settings
from iot_models.settings import Settings

from .certificate import ensure_certificate
from .child import Child, Program
from .options import Options
from .ports import free_port
from .postgres_server import PostgresServer
from .redis_server import RedisServer

DEMO_PASSWORD = "demo"  # noqa: S105 -- of simulated readings, and printed for all to see

_LARGE_LOG = 20 * 2**20


@dataclass
class Parts:
    """Every part of one `make run`; the same IOT_* variables that a cluster sets, set here.

    A variable that the caller's environment sets wins: an `IOT_REDIS_URL` or an
    `IOT_POSTGRES_URL` there means that we start no such server.
    """

    options: Options
    given: Mapping[str, str]
    inherit: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self.logs.mkdir(mode=0o700, exist_ok=True)
        self._put_old_logs_aside()
        self.redis = None if self._is_given("redis_url") else self._own_redis()
        self.postgres = None if self._is_given("postgres_url") else self._own_postgres()
        self._defaults = {
            "IOT_KEYRING_FILE": str(self.options.data_dir / "keyring"),
            "IOT_BIND": f"127.0.0.1:{self.options.port}",
            "IOT_METRICS_ADDRESS": "127.0.0.1",
            "IOT_API_METRICS_PORT": str(free_port()),
            "IOT_WRITER_METRICS_PORT": str(free_port()),
        }
        if self.options.tls and not self._is_given("tls_certificate"):
            self._defaults |= self._own_certificate()

    @property
    def logs(self) -> Path:
        """Where each child's log lies."""
        return self.options.data_dir / "logs"

    @property
    def writer_keys(self) -> Path:
        """The file with the writer's keys, derived from the keyring at every start."""
        return self.options.data_dir / "writer-keys"

    def environment(self) -> dict[str, str]:
        """The environment of the children; complete once the servers have started."""
        urls = {}
        if self.redis is not None:
            urls["IOT_REDIS_URL"] = self.redis.url
        if self.postgres is not None:
            urls["IOT_POSTGRES_URL"] = self.postgres.url
        # Our own database needs none of libpq's variables: PGSSLMODE would ask it for TLS.
        libpq = "PG" if self.postgres is not None else "\0"
        given = {k: v for k, v in self.given.items() if v and not k.startswith(libpq)}
        return {**self._defaults, **urls, **given, "PYTHONUNBUFFERED": "1"}

    def settings(self) -> Settings:
        """The settings of the children.

        Raises:
            SettingsError: a variable of the caller's is wrong.
        """
        # Before the first start our own database has no URL yet, nor does its value matter here.
        return settings.load({"IOT_POSTGRES_URL": "postgresql:", **self.environment()})

    def migration(self) -> Child:
        """Brings the database's schema up to date, and ends."""
        return self._child("migrate", ["-m", "iot_tools", "migrate"])

    def api(self, ready: Callable[[], bool]) -> Child:
        """The HTTP API; a client that stays connected, idle, doesn't hold up Ctrl-C for long."""
        config = ["--config", "python:iot_api.gunicorn_conf", "--graceful-timeout", "5"]
        command = ["-m", "gunicorn", *config, "iot_api.wsgi:app"]
        return self._child("api", command, ready=ready, stop_seconds=15)

    def writer(self) -> Child:
        """One writer, with a writer's keys alone."""
        keys = {"IOT_KEYRING_FILE": str(self.writer_keys)}
        return self._child("writer", ["-m", "iot_writer"], stop_seconds=40, extra=keys)

    def simulator(self, url: str) -> Child:
        """The simulated devices; they trust our certificate, and no other."""
        devices = ["--url", url, "--devices", str(self.options.devices)]
        trusted = {"SSL_CERT_FILE": self.environment().get("IOT_TLS_CERTIFICATE", "")}
        return self._child("simulator", ["-m", "iot_tools", "simulate", *devices], extra=trusted)

    def _child(
        self,
        name: str,
        arguments: list[str],
        *,
        ready: Callable[[], bool] | None = None,
        stop_seconds: float = 15,
        extra: Mapping[str, str] = {},
    ) -> Child:
        program = Program(
            name=name,
            arguments=[sys.executable, *arguments],
            environment={**self.environment(), **extra},
            log=self._log(name),
            stop_seconds=stop_seconds,
        )
        return Child(program, ready=ready, inherit=self.inherit)

    def _own_redis(self) -> RedisServer:
        return RedisServer(self.options.data_dir / "redis", log=self._log("redis"))

    def _own_postgres(self) -> PostgresServer:
        return PostgresServer(self.options.data_dir / "postgres", log=self._log("postgres"))

    def _own_certificate(self) -> dict[str, str]:
        certificate = self.options.data_dir / "certificate.pem"
        key = self.options.data_dir / "certificate-key.pem"
        ensure_certificate(certificate, key)
        return {"IOT_TLS_CERTIFICATE": str(certificate), "IOT_TLS_KEY": str(key)}

    def _put_old_logs_aside(self) -> None:
        """Keep one older file of a log that grew large, so that a start bounds them."""
        for log in self.logs.glob("*.log"):
            if log.stat().st_size > _LARGE_LOG:
                log.replace(log.with_suffix(".log.1"))

    def _log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def _is_given(self, field: str) -> bool:
        variable = settings.variable(field)
        return bool(self.given.get(variable) or self.given.get(f"{variable}_FILE"))


def of_this_process(options: Options, inherit: tuple[int, ...]) -> Parts:
    """The parts, with the environment of this process."""
    return Parts(options, os.environ, inherit)
