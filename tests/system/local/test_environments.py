"""`make run` works in unusual shell environments and data directories."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from iot_tools.local.child import wait_until
from iot_tools.local.ports import free_port

pytestmark = pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")

NOWHERE = "192.0.2.1"
"""An address of TEST-NET-1, where no host answers."""
LIBPQ = {
    "PGHOST": "db.invalid",
    "PGHOSTADDR": NOWHERE,
    "PGPORT": "1",
    "PGUSER": "stranger",
    "PGDATABASE": "elsewhere",
    "PGSERVICE": "none",
    "PGOPTIONS": "-c default_transaction_read_only=on",
    "PGPASSFILE": "/none",
    "PGDATA": "/none",
}
TLS = {"PGSSLMODE": "verify-full", "PGCHANNELBINDING": "require", "PGREQUIREAUTH": "scram-sha-256"}
PROXIES = {
    name: "http://127.0.0.1:9"
    for each in ("http_proxy", "https_proxy", "all_proxy")
    for name in (each, each.upper())
}
NO_LOCALE = {"LC_ALL": "xx_YY.UTF-8", "LANG": "xx_YY.UTF-8", "LANGUAGE": "xx"}
POSIX = {"LC_ALL": "POSIX", "LANG": "C"}
LONG = "/".join(["long" * 20] * 3)
SPECIAL = "Über uns, 100% $HOME 'a' \"b\" user@host #1"


def run_at(data_dir: str, environment: Mapping[str, str], cwd: Path) -> str:
    """Run the service, send and read a reading with the printed commands, and return the output.

    The service is started by make, as users do.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("IOT_", "MAKE", "LC_"))}
    checkout = Path(__file__).parents[3]
    make = subprocess.Popen(
        [
            *("make", "--no-print-directory", "-f", str(checkout / "Makefile"), "run", "DEVICES=0"),
            *(f"PORT={free_port()}", f"DATA_DIR={data_dir.replace('$', '$$')}"),
            f"VENV={Path(sys.prefix)}",
        ],
        cwd=cwd,
        env={**kept, "IOT_SCRYPT_LOG2_N": "10", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="surrogateescape",
        start_new_session=True,
    )
    said = ""
    with make:
        assert make.stdout is not None
        try:
            for line in make.stdout:
                said += line
                if "Ctrl-C stops everything" in line:
                    break
            if make.poll() is None:
                exchange(said, {**kept, **environment})
        finally:
            if make.poll() is None:
                os.killpg(make.pid, signal.SIGINT)
            said += make.stdout.read()
    return said


def exchange(said: str, environment: Mapping[str, str]) -> None:
    """Run both printed commands in the same environment."""
    send, read = re.findall(r"^ +(curl .*)$", said, re.MULTILINE)
    assert json.loads(answer(send, environment)) == {"success": "1 object(s) created"}, said

    def came_back() -> bool:
        return len(json.loads(answer(read, environment)).get("data", [])) == 1

    assert wait_until(came_back, 60, 0.1), said


def answer(command: str, environment: Mapping[str, str] | None = None) -> str:
    """Return the output of a command."""
    done = subprocess.run(
        ["bash", "-c", command],  # noqa: S607 -- as users paste it
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def fresh(folder: Path) -> Path:
    """Create an empty checkout. The Makefile builds relative to its working directory."""
    root = Path(__file__).parents[3]
    for each in ("clients", "requirements", "shared", "services", "tools"):
        (folder / each).symlink_to(root / each)
    return folder


@pytest.mark.parametrize(
    ("data_dir", "environment"),
    [
        (LONG, {**LIBPQ, **TLS, **PROXIES, **NO_LOCALE}),
        (SPECIAL, {**LIBPQ, **TLS, **POSIX}),
    ],
    ids=["long", "special"],
)
def test_make_run_ignores_variables_with_its_own_stores(
    data_dir: str, environment: Mapping[str, str], tmp_path: Path
) -> None:
    """The data directory is relative to the working directory."""
    (tmp_path / "checkout").mkdir()
    said = run_at(data_dir, environment, fresh(tmp_path / "checkout"))
    assert "first reading read back" in said, said
    assert "killed" not in said
    assert (tmp_path / "checkout" / data_dir / "keyring").exists()


def test_make_run_ignores_variables_with_a_given_postgres(
    postgres_url: str, tmp_path: Path
) -> None:
    """No variable of libpq changes the URL of the migration, the API or the writer."""
    given = {**LIBPQ, **PROXIES, **NO_LOCALE, "IOT_POSTGRES_URL": postgres_url}
    said = run_at(str(tmp_path / "data"), given, fresh(tmp_path))
    assert "first reading read back" in said, said


def test_an_unusable_data_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    command = [sys.executable, "-m", "iot_tools", "run", "--data-dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    said = done.stdout + done.stderr
    assert f"DATA_DIR {tmp_path} can't be used: Is a directory: {tmp_path / 'lock'}" in said
    assert "Traceback" not in said
