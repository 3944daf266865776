"""gunicorn's master imports the modules of its workers, after gevent has patched the library."""

import json
import subprocess
import sys
from typing import Any

import pytest

from iot_cipher.keyring import new_keyring_text
from support.environment import environment_without_settings

PROGRAM = """
import gc, sys
opened, collections = [], []
sys.addaudithook(lambda event, words: opened.append(words[0]) if event == "open" else None)
gc.callbacks.append(
    lambda *_: collections.append("iot_api.app" in sys.modules and not gc.get_freeze_count())
)
import iot_api.gunicorn_conf, iot_api.server.gunicorn_worker
inherited = set(sys.modules)
facts = {
    "collected": any(collections),
    "collects": gc.isenabled(),
    "frozen": gc.get_freeze_count(),
    "plugins": [str(name) for name in opened if str(name).endswith("entry_points.txt")],
}

import gevent, json, os, psycopg.waiting, queue, redis.retry, signal, subprocess
facts["redis sleeps"] = redis.retry.sleep is gevent.sleep
facts["psycopg waits"] = psycopg.waiting.wait is not psycopg.waiting.wait_c
parts = os.fork, os.waitpid, queue.SimpleQueue, signal.signal, subprocess.Popen
facts["modules"] = [part.__module__.partition(".")[0] for part in parts]

import iot_api.wsgi
facts["imported"] = [*set(sys.modules) - inherited]
iot_api.wsgi.app.extensions["iot"].close()
print(json.dumps(facts))
"""
"""What holds in gunicorn's master after its imports, and what a worker then imports."""


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the program finds."""
    folder = tmp_path_factory.mktemp("master")
    (folder / "keyring").write_text(new_keyring_text(), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        env=environment_without_settings()
        | {
            "IOT_REDIS_URL": "redis://127.0.0.1:1/0",
            "IOT_POSTGRES_URL": "postgresql://127.0.0.1:1/none",
            "IOT_KEYRING_FILE": str(folder / "keyring"),
            "IOT_API_METRICS_PORT": "0",
            "TMPDIR": str(folder),
        },
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=60,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_worker_imports_nothing_again(facts: dict[str, Any]) -> None:
    new = [name for name in facts["imported"] if not name.startswith("encodings.")]
    assert new == ["iot_api.wsgi"]


def test_the_drivers_bind_what_gevent_has_patched(facts: dict[str, Any]) -> None:
    assert facts["redis sleeps"] is True
    assert facts["psycopg waits"] is True


def test_the_master_waits_for_its_workers_without_gevent(facts: dict[str, Any]) -> None:
    assert len(facts["modules"]) == 5
    assert "gevent" not in facts["modules"]


def test_gevent_looks_for_no_plugins(facts: dict[str, Any]) -> None:
    assert facts["plugins"] == []


def test_workers_share_what_was_imported_without_a_collection(facts: dict[str, Any]) -> None:
    assert facts["collected"] is False
    assert facts["collects"] is True
    assert facts["frozen"] > 50_000
