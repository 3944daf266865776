"""gunicorn's master imports the modules of its workers, after gevent has patched the library."""

import subprocess
import sys
from pathlib import Path

from iot_cipher.keyring import new_keyring_text
from support.environment import environment_without_settings

MASTER = """
import gc, sys
opened, collections = [], []
sys.addaudithook(lambda event, words: opened.append(words[0]) if event == "open" else None)
gc.callbacks.append(
    lambda *_: collections.append("iot_api.app" in sys.modules and not gc.get_freeze_count())
)
import iot_api.gunicorn_conf, iot_api.server.gunicorn_worker
inherited = set(sys.modules)
"""


def printed(program: str, folder: Path) -> str:
    """Return what a program prints that runs after the imports of gunicorn's master."""
    (folder / "keyring").write_text(new_keyring_text(), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", MASTER + program],
        env=environment_without_settings()
        | {
            "IOT_REDIS_URL": "redis://127.0.0.1:1/0",
            "IOT_POSTGRES_URL": "postgresql://127.0.0.1:1/none",
            "IOT_KEYRING_FILE": str(folder / "keyring"),
            "TMPDIR": str(folder),
        },
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout


def test_a_worker_imports_nothing_again(tmp_path: Path) -> None:
    program = """
import iot_api.wsgi
print(*(name for name in set(sys.modules) - inherited if not name.startswith("encodings.")))
iot_api.wsgi.app.extensions["iot"].close()
"""
    assert printed(program, tmp_path) == "iot_api.wsgi\n"


def test_the_drivers_bind_what_gevent_has_patched(tmp_path: Path) -> None:
    program = """
import gevent, psycopg.waiting, redis.retry
print(redis.retry.sleep is gevent.sleep, psycopg.waiting.wait is not psycopg.waiting.wait_c)
"""
    assert printed(program, tmp_path) == "True True\n"


def test_the_master_waits_for_its_workers_without_gevent(tmp_path: Path) -> None:
    program = """
import os, queue, signal, subprocess
parts = os.fork, os.waitpid, queue.SimpleQueue, signal.signal, subprocess.Popen
print({part.__module__.partition(".")[0] for part in parts} & {"gevent"})
"""
    assert printed(program, tmp_path) == "set()\n"


def test_gevent_looks_for_no_plugins(tmp_path: Path) -> None:
    program = """
print(*(name for name in opened if str(name).endswith("entry_points.txt")))
"""
    assert printed(program, tmp_path) == "\n"


def test_workers_share_what_was_imported_without_a_collection(tmp_path: Path) -> None:
    program = """
print(any(collections), gc.isenabled(), gc.get_freeze_count() > 50_000)
"""
    assert printed(program, tmp_path) == "False True True\n"
