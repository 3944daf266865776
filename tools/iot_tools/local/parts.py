"""The processes of `make run`, and their settings."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from iot_models import settings
from iot_models.addresses import parse_bind
from iot_models.setting_values import variable
from iot_models.settings import Settings

from .certificate import ensure_certificate
from .child import Child
from .launcher import Launcher
from .options import Options
from .ports import free_port
from .postgres_server import PostgresServer
from .redis_server import RedisServer

DEMO_PASSWORD = "demo"  # noqa: S105 -- the password of simulated readings, which is printed

_LARGE_LOG = 20 * 2**20
"""`make run` begins a new log if the present one has more bytes."""


@dataclass
class Parts:
    """The processes of one `make run`, and the `IOT_*` variables that they need.

    `given` is the environment of the caller. Its variables take precedence over the defaults of
    `make run`. If it has `IOT_REDIS_URL` or `IOT_POSTGRES_URL`, `make run` uses the server at that
    URL instead of its own.
    """

    options: Options
    given: Mapping[str, str]
    inherit: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self.logs.mkdir(mode=0o700, exist_ok=True)
        self._rotate_logs()
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
        """The folder with the logs of all processes."""
        return self.options.data_dir / "logs"

    @property
    def writer_keys(self) -> Path:
        """The file with the writers' keys, derived from the keyring at every start."""
        return self.options.data_dir / "writer-keys"

    def environment(self) -> dict[str, str]:
        """Return the environment of all processes."""
        urls = {}
        if self.redis is not None:
            urls["IOT_REDIS_URL"] = self.redis.url
        if self.postgres is not None:
            urls["IOT_POSTGRES_URL"] = self.postgres.url
        # The local database must not see libpq's variables: PGSSLMODE could require TLS.
        libpq = "PG" if self.postgres is not None else "\0"
        given = {k: v for k, v in self.given.items() if v and not k.startswith(libpq)}
        return {**self._defaults, **urls, **given, "PYTHONUNBUFFERED": "1"}

    def settings(self) -> Settings:
        """Return the settings of all processes.

        Raises:
            SettingsError: an environment variable is invalid.
        """
        return settings.load(self.environment())

    def migration(self) -> Child:
        """Return the process that migrates the database schema, and then ends."""
        return self._launcher().python("migrate", ["-m", "iot_tools", "migrate"])

    def api(self, ready: Callable[[], bool]) -> Child:
        """Return the API. At shutdown, answers that are under way get up to 3 seconds."""
        return self._launcher().api("--graceful-timeout", "5", ready=ready)

    def writer(self) -> Child:
        """Return a writer, which gets the writers' keys instead of the keyring."""
        return self._launcher().writer(variables={"IOT_KEYRING_FILE": str(self.writer_keys)})

    def simulator(self, url: str) -> Child:
        """Return the process of the simulated devices. It trusts the certificate of the API."""
        arguments = ["-m", "iot_tools", "simulate", "--url", url]
        arguments += ["--devices", str(self.options.devices)]
        trusted = {"SSL_CERT_FILE": self.environment().get("IOT_TLS_CERTIFICATE", "")}
        return self._launcher().python("simulator", arguments, variables=trusted)

    def _launcher(self) -> Launcher:
        return Launcher(self.environment(), self.logs, self.inherit)

    def _own_redis(self) -> RedisServer:
        return RedisServer(self.options.data_dir / "redis", log=self._log("redis"))

    def _own_postgres(self) -> PostgresServer:
        return PostgresServer(self.options.data_dir / "postgres", log=self._log("postgres"))

    def _own_certificate(self) -> dict[str, str]:
        certificate = self.options.data_dir / "certificate.pem"
        key = self.options.data_dir / "certificate-key.pem"
        # The other settings are not complete yet: some need a certificate.
        bind = parse_bind(settings.load_one("bind", self.environment()))
        ensure_certificate(certificate, key, host=bind[0] if bind else "")
        return {"IOT_TLS_CERTIFICATE": str(certificate), "IOT_TLS_KEY": str(key)}

    def _rotate_logs(self) -> None:
        """Rename each log above 20 MiB to `<name>.log.1`. Overwrite an older file of this name."""
        for log in self.logs.glob("*.log"):
            if log.stat().st_size > _LARGE_LOG:
                log.replace(log.with_suffix(".log.1"))

    def _log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def _is_given(self, field: str) -> bool:
        name = variable(field)
        return bool(self.given.get(name) or self.given.get(f"{name}_FILE"))
