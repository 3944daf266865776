"""No password, token, key or reading leaves the service, whatever fails, at the log level DEBUG."""

import base64
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import psycopg
import pytest

from integration.api.test_broken_requests import BROKEN, Secrets
from iot_cipher.encryption import OpenVault
from iot_cipher.keyring import parse_keyring
from iot_cipher.tokens import new_tokens_text, with_token
from iot_cipher.vault import VaultRecord, open_vault, scrypt_secret
from iot_tools.local.postgres_server import PostgresServer
from iot_tools.local.redis_server import RedisServer
from iot_writer.schema import migrate
from support.collector import Collector
from support.needles import contents, files, needles
from support.processes import children
from support.stack import Stack
from support.waiting import wait_until
from system.exposed_system import PASSWORD, READING, System, row, stopped, watched

NEW_PASSWORD, WRONG_PASSWORD = "Vb2LarkMeadow", "Jt9WrenSpruce"
UNKNOWN_TOKEN = "iot_" + "Unknown7" * 5 + "abc"


@pytest.fixture
def system(tmp_path: Path, environment: dict[str, str], collector: Collector) -> Iterator[System]:
    everything = ["slowlog-log-slower-than 0", "slowlog-max-len 100000", "rdbcompression no"]
    redis = RedisServer(tmp_path / "redis", config=everything)
    postgres = PostgresServer(
        tmp_path / "postgres",
        settings={
            "fsync": "off",
            "log_statement": "all",
            "log_parameter_max_length": "-1",
            "log_parameter_max_length_on_error": "-1",
            "log_error_verbosity": "verbose",
            "track_activity_query_size": "65536",
        },
    )
    logs = tmp_path / "logs"
    (logs / "another").mkdir(parents=True)
    text, token = with_token(new_tokens_text(), "devices", ["ingest", "read", "audit"])
    text, admin = with_token(text, "operator", ["admin"])
    (tmp_path / "tokens.json").write_text(text, encoding="utf-8")
    (tmp_path / "admin-token").write_text(admin, encoding="utf-8")
    environment |= {
        "IOT_REDIS_URL": redis.url,
        "IOT_POSTGRES_URL": postgres.url,
        "IOT_TOKENS_FILE": str(tmp_path / "tokens.json"),
        "IOT_LOG_LEVEL": "DEBUG",
        "IOT_LOG_FORMAT": "json",
        "IOT_LOG_REQUESTS": "1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "200",
        "IOT_GUESS_LIMIT": "0",
    }
    with ExitStack() as opened:
        for server in (redis, postgres):
            server.start()
            opened.callback(server.stop)
        migrate(postgres.url)
        stack = Stack(environment, logs, metrics=True)
        opened.callback(stack.stop)
        made = System(redis, postgres, environment, tmp_path, token, stack)
        opened.enter_context(watched(made))
        stack.start_api()
        stack.start_writer()
        yield made


# --- What happens to the system --------------------------------------------------------------


def normal_use(system: System) -> None:
    """Write and read in all ways."""
    assert system.put() == 201
    assert system.put(path="/api/iot?ack=stored", **{"Idempotency-Key": "first"}) in {201, 202}
    for path in ("", "/0", "/0/9", "/seconds/60", "/last/2", "/last/1?limit=1&order=desc"):
        assert system.read(path=path) == 200
    assert system.read(WRONG_PASSWORD) == 200
    for series in ("step=1d", "fields=a"):
        header = {"X-Iot-Password": PASSWORD}
        assert system.ask("GET", f"/api/iot/series?{series}", None, **header) == 200
    assert system.ask("POST", "/api/iot/maxtime", {"data": {"db_password": PASSWORD}}) == 200
    assert system.ask("GET", "/api/audit", None) == 200


def secrets_in_wrong_places(system: System) -> None:
    """Send broken requests, with the secrets in every part of them."""
    secrets = Secrets(PASSWORD.encode(), system.token.encode(), READING.encode())
    for request in BROKEN.values():
        system.send(request(secrets))
    for token in (UNKNOWN_TOKEN, PASSWORD, f"{system.token}x"):
        assert system.put(Authorization=f"Bearer {token}") == 401
    for path in (f"/api/iot/{PASSWORD}", f"/api/{READING}", f"/api/iot?ack={PASSWORD}"):
        assert system.put(path=path) in {400, 404, 405}
    assert system.read(path=f"/last/1?cursor={PASSWORD}") == 400
    for wrong in (f"password={PASSWORD}", f"step={PASSWORD}", f"{PASSWORD}=1"):
        assert system.ask("GET", f"/api/iot/series?{wrong}", None) == 400
    assert system.ask("PUT", "/api/iot", [row(PASSWORD), {"data": PASSWORD}]) == 400
    assert system.ask("PUT", "/api/iot", {"data": {"relative_time": READING}}) == 400


def change_of_the_password(system: System) -> None:
    """Change the password by HTTP, and back by command."""
    admin = (system.directory / "admin-token").read_text()
    body = {"data": {"db_password": PASSWORD, "new_password": NEW_PASSWORD}}
    assert system.ask("POST", "/api/vault/password", body) == 403
    authorized = {"Authorization": f"Bearer {admin}"}
    assert system.ask("POST", "/api/vault/password", body, **authorized) == 200
    assert system.ask("POST", "/api/vault/password", body, **authorized) == 404
    for name, password in (("old", NEW_PASSWORD), ("new", PASSWORD)):
        (system.directory / name).write_text(password)
    url = system.stack.url
    files_of_passwords = (
        "--password-file", str(system.directory / "old"),
        "--new-password-file", str(system.directory / "new"),
    )  # fmt: skip
    token = ("--token-file", str(system.directory / "admin-token"))
    assert system.command("vault", "password", "--url", url, *token, *files_of_passwords) == 0


def commands_of_operators(system: System) -> None:
    """Run the commands that print what they find, even with wrong input."""
    for command in (
        ["settings"], ["settings", "--markdown"], ["held", "list"], ["dead", "list"],
        ["audit", "verify"], ["audit", "export"], ["keys", "list"], ["keys", "status"],
        ["tokens", "list", "--file", str(system.tokens_file)],
        ["keys", "list", "--keyring", str(system.tokens_file)],
        ["tokens", "list", "--file", str(system.keyring_file)],
    ):  # fmt: skip
        system.command(*command)


def stores_that_do_not_answer(system: System) -> None:
    """Stop each store during requests, and end sessions and connections."""
    with stopped(system.redis.pid):
        assert system.put() in {0, 503}
    with stopped(system.postgres.pid), ExitStack() as opened:
        for pid in children(system.postgres.pid):
            opened.enter_context(stopped(pid))
        with ThreadPoolExecutor(2) as pool:  # both take until a timeout
            pool.submit(system.put, f"{PASSWORD} {NEW_PASSWORD}")
            pool.submit(system.read, path="/0")
    system.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
        "AND query NOT LIKE '%pg_stat_activity%'"
    )
    with system.client() as client:
        for each in client.client_list():
            if each["cmd"] != "monitor":
                client.client_kill_filter(_id=each["id"], skipme=True)
    wait_until(lambda: system.put() == 201, what="a PUT after the stores are back")


def damaged_stores(system: System) -> None:
    """Damage rows, keys and tables, so that requests and jobs meet unexpected errors."""
    wait_until(lambda: system.sql("SELECT 1 FROM segments"), what="a segment")
    for statement in (
        "UPDATE segments SET payload = set_byte(payload, 40, 255 - get_byte(payload, 40))",
        "UPDATE vaults SET wrapped_key = set_byte(wrapped_key, 30, 7)",
    ):
        system.sql(statement)
    with system.client() as client:
        for name in client.scan_iter("iot:hot:*"):
            client.delete(name)
            client.set(name, "not a key of this type")
        stream = next(iter(client.scan_iter("iot:ingest:*", _type="stream")))
        client.xadd(stream, {"e": READING[:0] + "not sealed"})
        client.set("iot:guesses:127.0.0.1", "not a number")
    for path in ("", "/seconds/60", "/last/2"):
        system.read(path=path)
    for table, column in (("segments", "payload"), ("vaults", "salt"), ("audit_log", "sealed")):
        system.sql(f"ALTER TABLE {table} RENAME COLUMN {column} TO hidden")
        system.put()
        system.put(f"{PASSWORD}{table}")
        system.read(path="/0")
        system.ask("GET", "/api/audit", None)
        if table == "segments":
            wait_until(lambda: b"Traceback" in all_logs(system), what="an unexpected error")
        system.sql(f"ALTER TABLE {table} RENAME COLUMN hidden TO {column}")
        system.sql(f"ALTER TABLE {table} RENAME TO hidden_{table}")
        system.read(path="/0")
        system.put()
        system.sql(f"ALTER TABLE hidden_{table} RENAME TO {table}")


def bad_files(system: System) -> None:
    """Break the files of keys and tokens while processes follow them, and start new ones."""
    key = json.loads(system.keyring_file.read_text())["keys"]["1"]
    for path, secret in ((system.keyring_file, key), (system.tokens_file, system.token)):
        right = path.read_text()
        for wrong in (right[:-3], f"{secret}{right}"):
            change(system, path, wrong, b"ignored")
            system.command("keys", "list")
            system.command("tokens", "list", "--file", str(system.tokens_file))
            change(system, path, right, b"is in use")
        change(system, path, f"{secret}{right}", b"ignored")
        logs = system.directory / "logs" / "another"
        another = Stack(system.environment, logs, metrics=True)
        another.start_api(wait=False)
        assert another.api is not None
        assert another.api.wait(30) != 0
        change(system, path, right, b"is in use")


def change(system: System, path: Path, text: str, logged: bytes) -> None:
    """Change a file, and wait until each worker of the API has logged a line about it."""
    before = len(log(system, "api"))
    path.write_text(text)

    def is_logged() -> bool:
        system.put()
        lines = log(system, "api")[before:].splitlines()
        return system.stack.workers() <= {
            json.loads(line)["process"] for line in lines if logged in line and line[-1:] == b"}"
        }

    wait_until(is_logged, what=f"lines about {path.name}: {logged.decode()}")


def signals(system: System) -> None:
    """End processes in all ways while requests run."""
    for number in (signal.SIGABRT, signal.SIGTERM, signal.SIGKILL):
        for worker in system.stack.workers():
            threading.Thread(target=system.put).start()
            with suppress(ProcessLookupError):
                os.kill(worker, number)
        wait_until(lambda: system.put() == 201, what="a PUT to a new worker")
        os.kill(system.stack.writers[-1].pid, number)
        system.stack.writers[-1].wait()
        system.stack.start_writer()


EVENTS: list[Callable[[System], None]] = [
    normal_use,
    secrets_in_wrong_places,
    change_of_the_password,
    commands_of_operators,
    stores_that_do_not_answer,
    bad_files,
    signals,
    damaged_stores,
]


def log(system: System, name: str) -> bytes:
    """Return the log of a process."""
    return (system.directory / "logs" / f"{name}.log").read_bytes()


def all_logs(system: System) -> bytes:
    """Return the logs of all processes of the service."""
    return b"".join(contents(files(system.directory / "logs")))


def secrets_of(system: System) -> dict[str, bytes]:
    """Return all secrets. Call it while the vault of `PASSWORD` is whole."""
    content = json.loads(system.keyring_file.read_text())
    masters = {f"master key {number}": key for number, key in content["keys"].items()}
    keys = {name: base64.b64decode(key) for name, key in masters.items()}
    return {
        "password": PASSWORD.encode(),
        "new password": NEW_PASSWORD.encode(),
        "wrong password": WRONG_PASSWORD.encode(),
        "reading": READING.encode(),
        "token": system.token.removeprefix("iot_").encode(),
        "unknown token": UNKNOWN_TOKEN.encode(),
        "admin token": (system.directory / "admin-token").read_bytes().removeprefix(b"iot_"),
        "pepper": base64.b64decode(content["pepper"]),
        "data key": data_key(system),
        **keys,
    }


def data_key(system: System) -> bytes:
    """Return the data key of the vault of `PASSWORD`."""
    keyring = parse_keyring(system.keyring_file.read_text())
    secret = scrypt_secret(keyring, PASSWORD.encode(), 10)
    (row,) = system.sql(
        "SELECT vault_id, lookup, salt, scrypt_log2_n, wrapped_key FROM vaults WHERE lookup = %s",
        secret.lookup,
    )
    vault: OpenVault = open_vault(keyring, VaultRecord(*row), secret)  # type: ignore[arg-type]
    return vault.data_key


def test_no_secret_is_written_anywhere(system: System, collector: Collector) -> None:
    secrets: dict[str, bytes] = {}
    for event in EVENTS:
        event(system)
        system.keep_metrics()
        secrets = secrets or secrets_of(system)
    assert b"Traceback" in all_logs(system)
    assert {"PUT /api/iot", "commit", "open a vault"} <= collector.spans().keys()
    system.outputs += collector.bodies
    assert system.search(needles(secrets)) == {}
    assert lines_that_are_not_json(system) == []


def lines_that_are_not_json(system: System) -> list[bytes]:
    """Return the lines of the API's and the writers' logs that are no event."""
    logs = (system.directory / "logs").rglob("*.log")
    lines = b"".join(contents(logs)).splitlines()
    assert len(lines) > 100
    return [line for line in lines if not (line.startswith(b'{"level":') and json.loads(line))]


def test_the_search_finds_each_secret_in_each_place(system: System) -> None:
    assert system.put() == 201
    wait_until(lambda: system.sql("SELECT 1 FROM vaults"), what="the vault")
    sought = needles({name: secret for name, secret in secrets_of(system).items() if secret})
    lines = [needle for name, needle in sought.items() if not name.endswith(" raw")]
    planted = "\n".join(line.decode() for line in lines)
    with system.client() as client:
        for line in lines:
            client.echo(line)
        client.rpush("planted", *lines)
        wait_until(lambda: lines[-1] in b"".join(system.commands), what="the commands")
    with psycopg.connect(system.postgres.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE planted (line text)")
        connection.execute("SET synchronous_commit = on")
        for line in lines:
            connection.execute("INSERT INTO planted VALUES (%s)", (line.decode(),))
        cursor = psycopg.ClientCursor(connection)  # it sends values as literals
        cursor.execute("SELECT %s, pg_sleep(1)", (planted,))
    (system.directory / "logs" / "api.log").write_text(planted)
    system.outputs.append(planted.encode())
    sleeper = [sys.executable, "-c", "input()", *(line.decode() for line in lines)]
    with subprocess.Popen(sleeper, stdin=subprocess.PIPE) as process:
        result = system.search(sought)
        process.communicate(b"\n")
    for place in system.places():
        # A backslash is escaped in several of the places.
        others = {name for name in sought if not name.endswith((" raw", " repr", " json"))}
        assert others - result[place] == set(), place


def test_a_crash_leaves_no_core_dump(system: System) -> None:
    """1 byte: the kernel writes no file, and starts no program that would take the dump."""
    assert system.stack.api is not None
    api = system.stack.api.pid
    for pid in (api, *children(api), system.stack.writers[0].pid):
        wait_until(lambda pid=pid: core_limits(pid) in (["1", "1"], ["0", "0"]), what="the limit")  # type: ignore[misc]


def core_limits(pid: int) -> list[str]:
    """Return the soft and the hard limit of core dumps of a process."""
    limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    (line,) = [each for each in limits if each.startswith("Max core file size")]
    return line.split()[4:6]
