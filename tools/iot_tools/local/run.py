"""`make run`: run the whole service on one machine until Ctrl-C."""

import os
import time
from contextlib import suppress
from pathlib import Path

from iot_cipher.keyring import create_keyring_file
from iot_cipher.writer_keys import write_writer_keys_file
from iot_models.addresses import parse_bind
from iot_models.errors import SettingsError
from iot_sensor_client import Client, ClientError, RetryPolicy
from iot_tools.cli.shutdown_signals import ShutdownRequested, ShutdownSignals

from . import first_reading, orphans
from .child import LaunchError
from .first_reading import FirstReading
from .lock import DirectoryInUseError, DirectoryLock
from .options import Options
from .parts import DEMO_PASSWORD, Parts
from .ports import ANY_ADDRESS, free_port, is_free
from .redis_server import find_redis
from .supervisor import Supervisor
from .terminal import Terminal

_EARLIER_RUN_SECONDS = 3.0
_FIRST_READING_SECONDS = 30.0
_TICK = 0.25


def run(options: Options) -> int:
    """Start all processes, restart those that die, and stop all of them at the end.

    Return 0 after a requested shutdown. If the start fails, print the reason and return 1.

    Raises:
        SettingsError: a variable of the environment or a file that it names is invalid. No process
            is left running.
    """
    terminal = Terminal(options.started)
    lock = DirectoryLock(options.data_dir)
    orphans.adopt()
    with ShutdownSignals() as signals:
        try:
            lock.take(_EARLIER_RUN_SECONDS)
            parts = Parts(options, os.environ, (lock.fileno(),))
            return LocalRun(parts, terminal, signals).run()
        except DirectoryInUseError as error:
            terminal.show(f"{error}: stop the other `make run`, or set another DATA_DIR.")
        except LaunchError as error:
            terminal.show(str(error))
        except OSError as error:  # for example a file of another user
            what = f"{error.strerror}: {error.filename}" if error.filename else str(error)
            terminal.show(f"DATA_DIR {options.data_dir} can't be used: {what}")
        finally:
            lock.release()
    return 1


class LocalRun:
    """One `make run`, from the start of the first process to the end of the last process."""

    def __init__(self, parts: Parts, terminal: Terminal, signals: ShutdownSignals) -> None:
        self._parts = parts
        self._terminal = terminal
        self._signals = signals
        self._supervisor = Supervisor(terminal.say, signals)
        self._settings = parts.settings()
        self._began = time.time()
        bind = parse_bind(self._settings.bind)
        if bind is None:
            raise SettingsError(
                "IOT_BIND: make run needs an address and a port, such as 0.0.0.0:5000"
            )
        self._host, self._port = bind

    def run(self) -> int:
        """Start, supervise and stop the processes. Return the exit status."""
        self._check_port()
        try:
            with suppress(ShutdownRequested):
                self._ensure_keyring()
                self._start_stores()
                self._migrate()
                self._start_service()
                self._greet()
                self._watch()
        except LaunchError as error:
            self._terminal.say(str(error))
            return 1
        finally:
            self._stop()
        return 0

    def _check_port(self) -> None:
        host = self._host or "0.0.0.0"  # noqa: S104 -- what an empty host means
        if not is_free(self._port, host):
            raise LaunchError(
                f"another program uses port {self._port}; "
                f"choose another port, for example: make run PORT={free_port()}"
            )

    def _ensure_keyring(self) -> None:
        """Create the keyring before the first data, so that data without a keyring has lost it."""
        keyring, postgres = Path(self._settings.keyring_file), self._parts.postgres
        if postgres is not None and postgres.data.exists() and not keyring.exists():
            raise LaunchError(
                f"{keyring} is missing, and without it nobody can read the stored data: restore "
                f"it, or remove {self._parts.options.data_dir} to start without the data"
            )
        if create_keyring_file(keyring):
            self._terminal.say(f"created the encryption keys: {keyring}")
        write_writer_keys_file(keyring, self._parts.writer_keys)

    def _start_stores(self) -> None:
        redis, postgres = self._parts.redis, self._parts.postgres
        self._supervisor.start([part for part in (postgres, redis) if part is not None])
        own_redis = find_redis(redis.directory)[1] if redis else "Redis at IOT_REDIS_URL"
        own_postgres = "PostgreSQL" if postgres else "PostgreSQL at IOT_POSTGRES_URL"
        self._terminal.say(f"{own_redis} and {own_postgres} are up")

    def _migrate(self) -> None:
        migration = self._parts.migration()
        try:
            migration.spawn()
            while migration.running:
                self._signals.check()
                self._signals.pause(0.02)
        finally:
            migration.stop()
        if migration.ending != "exit status 0":
            raise LaunchError(f"migration failed ({migration.ending}):\n{migration.log_tail()}")
        self._terminal.say("the database schema is up to date")

    def _start_service(self) -> None:
        probe = self._client(timeout=2)
        devices = self._parts.options.devices
        service = [self._parts.writer(), self._parts.api(probe.is_ready)]
        try:
            self._supervisor.start(service)
        except LaunchError as error:
            with suppress(ClientError):
                state = probe.request("GET", "/readyz").text()
                raise LaunchError(f"{error}\nThe API's /readyz answers: {state}") from None
            raise
        self._terminal.say("writer and API are up")
        if devices:
            self._supervisor.start([self._parts.simulator(self._url)])
            self._terminal.say(f"{devices} simulated RFID interrogator(s) send readings")

    def _greet(self) -> None:
        """Wait for the first reading, then print how to use the service."""
        send = self._parts.options.devices == 0
        client = self._client(timeout=5)
        first = FirstReading(client, since=self._began, send=send)
        came_back = first.wait(self._pause, _FIRST_READING_SECONDS)
        client.close()
        if first.refused:
            self._terminal.say("no reading was read back: set IOT_TOKEN to a token of the service")
        elif not came_back:
            self._terminal.say(f"no reading came back yet: see the logs in {self._parts.logs}")
        else:
            self._terminal.say(
                f"first reading read back {self._terminal.elapsed:.1f} s after start"
            )
        self._terminal.show(self._welcome())

    def _welcome(self) -> str:
        token = bool(self._settings.tokens_file)
        lines = [
            "",
            f"The service is at {self._url}",
            *self._page_lines(),
            *self._certificate_lines(),
            "",
            "Send a reading:",
            f"  {first_reading.curl_that_sends(self._url, token=token)}",
            "Read it back:",
            f"  {first_reading.curl_that_reads(self._url, token=token)}",
        ]
        if self._parts.options.devices:
            show = first_reading.curl_that_reads(self._url, DEMO_PASSWORD, token=token)
            lines += [f"The simulated readings, under the password {DEMO_PASSWORD}:", f"  {show}"]
        lines += [
            "",
            self._access_line(),
            self._metrics_line(),
            f"Logs: {self._parts.logs}. Ctrl-C stops everything.",
            "",
        ]
        return "\n".join(lines)

    def _page_lines(self) -> list[str]:
        if not self._settings.page:
            return []
        password = f": enter the password {DEMO_PASSWORD}" if self._parts.options.devices else ""
        return [f"See the readings at {self._url}/{password}"]

    def _certificate_lines(self) -> list[str]:
        certificate = self._settings.tls_certificate
        return (
            [f"Its certificate, for --ca-file of iot-sensor: {certificate}"] if certificate else []
        )

    def _access_line(self) -> str:
        if self._settings.tokens_file:
            return f"Clients need a token that {self._settings.tokens_file} lists."
        return (
            "No tokens are required (IOT_TOKENS_FILE is not set): "
            "every client that can connect may use the service."
        )

    def _metrics_line(self) -> str:
        given = self._parts.environment()
        address = given["IOT_METRICS_ADDRESS"]
        ports = (given[f"IOT_{part}_METRICS_PORT"] for part in ("API", "WRITER"))
        api, writer = (f"http://{address}:{port}/metrics" for port in ports)
        return f"Metrics: {api} (API), {writer} (writer)."

    def _watch(self) -> None:
        while not self._signals.requested:
            self._supervisor.tick(time.monotonic())
            orphans.reap(self._supervisor.pids)
            self._signals.pause(_TICK)

    def _stop(self) -> None:
        self._terminal.show("")
        cause = f" ({self._signals.name})" if self._signals.name else ""
        self._terminal.say(
            f"stopping everything{cause}, the devices first and the database last ..."
        )
        self._supervisor.stop()
        left = orphans.end_all()
        if left:
            self._terminal.say(f"killed {left} remaining processes")
        self._terminal.say(f"stopped; the data is in {self._parts.options.data_dir}")

    def _pause(self, seconds: float) -> None:
        self._signals.check()
        self._signals.pause(seconds)

    @property
    def _url(self) -> str:
        scheme = "https" if self._settings.tls_certificate else "http"
        host = "127.0.0.1" if self._host in ANY_ADDRESS else self._host
        host = f"[{host}]" if ":" in host else host
        return f"{scheme}://{host}:{self._port}"

    def _client(self, timeout: float) -> Client:
        return Client(
            self._url,
            DEMO_PASSWORD,
            self._parts.environment().get("IOT_TOKEN"),
            # The callers retry, and stop retrying immediately on shutdown.
            retry=RetryPolicy(max_attempts=1),
            timeout=timeout,
            ca_file=self._settings.tls_certificate or None,
        )
