"""A process with an invalid setting exits with code 2, and its log ends with one sentence."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from iot_api.app import create_app
from iot_cipher.keyring import new_keyring_text
from iot_cipher.tokens import new_tokens_text
from iot_models.settings import load
from iot_tools.cli.main import main
from iot_tools.local.certificate import ensure_certificate
from iot_tools.local.ports import free_port
from support.environment import environment_without_settings

GUNICORN = ("-m", "gunicorn", "--config", "python:iot_api.gunicorn_conf", "iot_api.wsgi:app")
WRITER = ("-m", "iot_writer")
PASSWORD = "hunter2"

TEXTS = {
    "broken": b'{"version": 1',
    "binary": b"\xff\xfe\x00\x01" * 9,
    "two": b"redis://one\nredis://two\n",
    "utf-16": "redis://one".encode("utf-16"),
}
STORES: dict[str, tuple[Mapping[str, str], str]] = {
    "no URL of Redis": ({"IOT_REDIS_URL": "one"}, "IOT_REDIS_URL: "),
    "a port of Redis": (
        {"IOT_REDIS_URL": f"redis://:{PASSWORD}@h:x"},
        "IOT_REDIS_URL: invalid port",
    ),
    "Sentinels": ({"IOT_REDIS_URL": "redis+sentinel://h"}, "IOT_REDIS_URL must be redis+sentinel"),
    "no file": ({"IOT_REDIS_URL_FILE": "/none"}, "IOT_REDIS_URL_FILE can't be read: No such file"),
    "two lines": ({"IOT_REDIS_URL_FILE": "two"}, "IOT_REDIS_URL_FILE holds more than one line"),
    "UTF-16": ({"IOT_REDIS_URL_FILE": "utf-16"}, "can't be read: it is not UTF-8 text"),
}
SERVICES: dict[str, tuple[Mapping[str, str], str]] = {
    **STORES,
    "Postgres": (
        {"IOT_POSTGRES_URL": f"postgresql://me:{PASSWORD}%zz@h/db"},
        "IOT_POSTGRES_URL is not a libpq URL",
    ),
    "a broken keyring": (
        {"IOT_KEYRING_FILE": "broken"},
        "IOT_KEYRING_FILE: the keyring is not JSON of the form",
    ),
    "a binary keyring": (
        {"IOT_KEYRING_FILE": "binary"},
        "IOT_KEYRING_FILE can't be read: it is not UTF-8 text",
    ),
    "no keyring": ({"IOT_KEYRING_FILE": "/"}, "IOT_KEYRING_FILE can't be read: Is a directory"),
    "a level": ({"IOT_LOG_LEVEL": "LOUD"}, "IOT_LOG_LEVEL must be one of"),
    "brackets": (
        {"IOT_METRICS_ADDRESS": "[::]"},
        "IOT_METRICS_ADDRESS: [::]: write an IPv6 address without brackets",
    ),
}
API: dict[str, tuple[Mapping[str, str], str]] = {
    **SERVICES,
    "tokens": (
        {"IOT_TOKENS_FILE": "broken"},
        "IOT_TOKENS_FILE: the file of tokens is not JSON of the form",
    ),
    "an address": ({"IOT_BIND": "127.0.0.1"}, "IOT_BIND: '127.0.0.1' is not an address and a port"),
    "a certificate": (
        {"IOT_TLS_CERTIFICATE": "broken", "IOT_TLS_KEY": "broken"},
        "IOT_TLS_CERTIFICATE and IOT_TLS_KEY can't be used",
    ),
}
CASES = [
    *((GUNICORN, name, *API[name]) for name in API),
    *((WRITER, name, *SERVICES[name]) for name in SERVICES),
]
COMMANDS = [
    *(pytest.param(("dead", "list"), *STORES[name], id=name) for name in STORES),
    pytest.param(("migrate",), *SERVICES["Postgres"], id="Postgres"),
]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The variables of a process without stores, which are not needed to refuse settings."""
    (tmp_path / "keyring").write_text(new_keyring_text(), encoding="utf-8")
    return environment_without_settings() | {
        "IOT_REDIS_URL": f"redis://127.0.0.1:{free_port()}/0",
        "IOT_POSTGRES_URL": f"postgresql://me:{PASSWORD}@127.0.0.1:{free_port()}/none",
        "IOT_KEYRING_FILE": str(tmp_path / "keyring"),
        "IOT_BIND": f"127.0.0.1:{free_port()}",
        "IOT_API_WORKERS": "2",
        "IOT_API_METRICS_PORT": str(free_port()),
        "IOT_WRITER_METRICS_PORT": "0",
        "TMPDIR": str(tmp_path),
    }


def ended(words: tuple[str, ...], environment: Mapping[str, str]) -> tuple[int, str]:
    """Run a process until it exits, and return its exit code and log."""
    done = subprocess.run(
        [sys.executable, *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout


def changed(tmp_path: Path, changes: Mapping[str, str]) -> dict[str, str]:
    """Write the texts of changed settings to files, and return the changes of the environment."""
    found = {}
    for name, value in changes.items():
        if value in TEXTS:
            (tmp_path / value).write_bytes(TEXTS[value])
        found[name] = str(tmp_path / value) if value in TEXTS else value
    return found


@pytest.mark.parametrize(
    ("words", "name", "changes", "sentence"),
    CASES,
    ids=[f"{words[1]}-{name}" for words, name, *_ in CASES],
)
def test_the_log_ends_with_one_sentence(
    words: tuple[str, ...],
    name: str,
    changes: Mapping[str, str],
    sentence: str,
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    del name
    code, log = ended(words, environment | changed(tmp_path, changes))
    assert code == 2, log
    assert sentence in log.splitlines()[-1], log
    assert "Traceback" not in log
    assert PASSWORD not in log
    # gunicorn's master does not replace a worker that refused its settings.
    assert log.count("Booting worker") <= 2
    assert not list(tmp_path.glob("iot-api-metrics-*"))


@pytest.mark.parametrize(("words", "changes", "sentence"), COMMANDS)
def test_a_command_ends_with_one_sentence(
    words: tuple[str, ...],
    changes: Mapping[str, str],
    sentence: str,
    environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for variable, value in (environment | changed(tmp_path, changes)).items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit) as ended_with:
        sys.exit(main([*words]))
    said = "".join(capfd.readouterr())
    assert ended_with.value.code == 2, said
    assert sentence in said.splitlines()[-1], said
    assert "Traceback" not in said
    assert PASSWORD not in said


@pytest.mark.parametrize("url", ["http://h:x", "http://h:99999", "http://[::1", "ftp://h", "h:80"])
@pytest.mark.parametrize("command", ["probe", "canary", "soak", "simulate"])
def test_commands_refuse_an_invalid_url(
    command: str, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended_with:
        sys.exit(main([command, "--url", url]))
    assert ended_with.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("--url: ")


@pytest.mark.parametrize("ending", [b"\r\n", b"\n\n", b" \t\r\n"])
def test_files_from_windows_are_read(
    ending: bytes, environment: dict[str, str], tmp_path: Path
) -> None:
    """Every file starts with a byte order mark and ends with CRLF, and variables end with CR. The
    app starts with these settings.
    """
    mark = b"\xef\xbb\xbf"
    texts = {
        "IOT_REDIS_URL_FILE": environment.pop("IOT_REDIS_URL"),
        "IOT_POSTGRES_URL_FILE": environment.pop("IOT_POSTGRES_URL"),
        "IOT_KEYRING_FILE": new_keyring_text(),
        "IOT_TOKENS_FILE": new_tokens_text(),
    }
    for name, text in texts.items():
        (tmp_path / name).write_bytes(mark + text.encode() + ending)
        environment[name] = f"{tmp_path / name}\r"
    environment["IOT_CORS_ORIGINS"] = "https://one.example\r"
    ensure_certificate(tmp_path / "certificate", tmp_path / "key")
    environment |= {"IOT_TLS_CERTIFICATE": str(tmp_path / "certificate")}
    environment |= {"IOT_TLS_KEY": f"{tmp_path / 'key'}\r"}
    app = create_app(load(environment))
    app.extensions["iot"].close()
