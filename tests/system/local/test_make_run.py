"""The printed commands of `make run` work, and no process remains after its end."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from iot_tools.cli.main import main
from iot_tools.local.child import wait_until
from iot_tools.local.ports import free_port
from system.local.test_environments import answer

pytestmark = pytest.mark.skipif(
    not (shutil.which("curl") and Path("/proc/self/environ").exists()),
    reason="needs curl and /proc",
)

CHECKOUT = Path(__file__).parents[3]
PATIENCE = 60.0


class MakeRun:
    """A `make run` in a new process group, as in a shell.

    With `quick`, the derivation of a key from a password takes little CPU time.
    """

    def __init__(self, data_dir: Path, *, quick: bool = True, **variables: object) -> None:
        self.data_dir = data_dir
        self.port = variables.setdefault("PORT", free_port())
        given = [f"{name}={value}" for name, value in variables.items()]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("IOT_", "MAKE"))}
        if quick:
            environment["IOT_SCRYPT_LOG2_N"] = "10"
        self._make = subprocess.Popen(
            ["make", "--no-print-directory", "run", f"DATA_DIR={data_dir}", *given],  # noqa: S607 -- as users type it
            cwd=CHECKOUT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.output = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def wait_for(self, pattern: str, count: int = 1) -> re.Match[str]:
        """Wait until the output has `count` matches, and return the last match."""

        def shown() -> bool:
            return len(list(re.finditer(pattern, self.output))) >= count

        wait_until(lambda: shown() or not self._reader.is_alive(), PATIENCE)
        assert shown(), f"{pattern} was not shown:\n{self.output}"
        return list(re.finditer(pattern, self.output))[count - 1]

    def wait_until_up(self) -> None:
        """Wait until the service runs and the commands are printed."""
        self.wait_for("Ctrl-C stops everything")

    def curl(self, caption: str) -> str:
        """Run the command printed under a caption."""
        command = self.wait_for(rf"{caption}:\n +(curl .*)\n")[1]
        return answer(command)

    def read_back(self, caption: str = "Read it back") -> list[dict[str, Any]]:
        """Repeat a printed command until it returns rows, and return them."""
        rows: list[dict[str, Any]] = []
        answer = ""

        def read() -> bool:
            nonlocal answer
            answer = self.curl(caption)
            rows[:] = json.loads(answer).get("data", [])
            return bool(rows)

        assert wait_until(read, PATIENCE, 0.1), f"{answer}\n{self.output}"
        return list(rows)

    def processes(self) -> dict[int, str]:
        """Return pid and command line of all processes with this data directory."""
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            try:
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                words = command + (process / "environ").read_bytes().decode(errors="replace")
                words += str((process / "cwd").readlink())
            except OSError:
                continue
            if str(self.data_dir) in words and int(process.name) != os.getpid():
                found[int(process.name)] = command
        return found

    def pid_of(self, *words: str) -> int:
        """Return the oldest process of this run whose command line has these words."""
        fitting = [pid for pid, line in self.processes().items() if all(w in line for w in words)]
        return min(fitting, key=_start_time)

    def interrupt(self) -> None:
        """Send SIGINT to the process group, as Ctrl-C does."""
        os.killpg(self._make.pid, signal.SIGINT)

    def terminate(self) -> None:
        """Send SIGTERM to make alone."""
        self._make.terminate()

    def wait(self) -> int:
        """Wait for the end of make, and return its exit code."""
        status = self._make.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return status

    def close(self) -> None:
        """Kill the processes of a failed test."""
        if self._make.poll() is None:
            self.interrupt()
            self.wait()
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        assert self._make.stdout is not None
        self._make.stdout.close()

    def _read(self) -> None:
        assert self._make.stdout is not None
        for line in self._make.stdout:
            self.output += line


StartRun = Callable[..., MakeRun]


@pytest.fixture
def start_run(tmp_path: Path) -> Iterator[StartRun]:
    """A function that starts `make run`, with one data directory by default."""
    runs: list[MakeRun] = []

    def start(data_dir: Path = tmp_path / "data", **options: Any) -> MakeRun:
        runs.append(MakeRun(data_dir, **options))
        return runs[-1]

    yield start
    for run in runs:
        run.close()


def test_make_run_survives_faults_and_a_restart(start_run: StartRun) -> None:
    run = start_run(DEVICES=1)
    run.wait_until_up()
    run.wait_for(r"first reading read back [\d.]+ s after start")
    assert "every client that can connect may use the service" in run.output
    assert (
        f"See the readings at http://127.0.0.1:{run.port}/: enter the password demo" in run.output
    )
    assert json.loads(run.curl("Send a reading")) == {"success": "1 object(s) created"}
    (mine,) = run.read_back()
    assert json.loads(mine["freeform"])["epc96"] == "000011112222333344445555"
    assert run.read_back("The simulated readings, under the password demo")

    os.kill(run.pid_of("iot_writer"), signal.SIGKILL)
    run.wait_for(r"writer died \(SIGKILL\); starting it again in 0.5 s")
    run.wait_for("writer is back")
    os.kill(run.pid_of("gunicorn"), signal.SIGKILL)
    run.wait_for(r"api died \(SIGKILL\)")
    run.wait_for("api is back")
    os.kill(run.pid_of("redis-server"), signal.SIGKILL)
    run.wait_for("redis is back")
    os.kill(run.pid_of("bin/postgres "), signal.SIGKILL)
    run.wait_for("postgres is back")
    assert run.read_back() == [mine]
    caught_up(run)

    run.interrupt()
    run.wait()
    assert run.processes() == {}, run.output
    assert "killed" not in run.output.partition("stopping everything")[2]
    assert "not sent" in (run.data_dir / "logs" / "simulator.log").read_text(encoding="utf-8")

    again = start_run(DEVICES=0, PORT=run.port)
    again.wait_until_up()
    assert "created the encryption keys" not in again.output
    assert "simulated" not in again.output
    assert all_readings(again, "my-password") == [mine]
    sent_without_gap(all_readings(again, "demo"))
    again.interrupt()
    again.interrupt()
    assert wait_until(lambda: again.processes() == {}, PATIENCE), again.output


def test_make_run_serves_tls(start_run: StartRun) -> None:
    run = start_run(quick=False, TLS=1)
    run.wait_until_up()
    assert f"The service is at https://127.0.0.1:{run.port}\n" in run.output
    run.curl("Send a reading")
    assert len(run.read_back()) == 1
    assert run.read_back("The simulated readings, under the password demo")
    certificate = run.data_dir / "certificate.pem"
    assert f"Its certificate, for --ca-file of iot-sensor: {certificate}\n" in run.output
    probe = ["probe", "--url", f"https://127.0.0.1:{run.port}", "--ca-file", str(certificate)]
    assert main(probe) == 0
    key = run.data_dir / "certificate-key.pem"
    assert key.stat().st_mode & 0o077 == 0
    run.terminate()
    run.wait()
    assert run.processes() == {}, run.output


def test_a_second_run_on_the_same_data_is_refused(start_run: StartRun) -> None:
    """When its supervisor is killed, the first run leaves no process."""
    run = start_run()
    run.wait_until_up()
    second = start_run()
    assert second.wait() == 2
    assert re.search(r"data is in use by process \d+: stop the other `make run`", second.output)
    os.kill(run.pid_of("-m iot_tools run"), signal.SIGKILL)
    assert wait_until(lambda: run.processes() == {}, PATIENCE)


def test_a_used_port_is_named(start_run: StartRun, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        run = start_run(PORT=port)
        assert run.wait() == 2
    assert f"another program uses port {port}; choose another port" in run.output
    assert run.processes() == {}
    assert not (tmp_path / "data" / "postgres").exists()


def test_data_without_its_keyring_gets_no_new_keys(start_run: StartRun, tmp_path: Path) -> None:
    (tmp_path / "data" / "postgres" / "data").mkdir(parents=True)
    run = start_run()
    assert run.wait() == 2
    keyring = tmp_path / "data" / "keyring"
    assert f"{keyring} is missing, and without it nobody can read the stored data" in run.output
    assert not keyring.exists()


@pytest.mark.parametrize("variable", ["PORT", "DEVICES", "TLS"])
def test_an_invalid_value_is_named(start_run: StartRun, variable: str) -> None:
    run = start_run(**{variable: "many"})
    assert run.wait() == 2
    assert re.search(rf"(?m)^{variable} must be .*, not 'many'\n", run.output)
    assert "Error 2" in run.output


def all_readings(run: MakeRun, password: str) -> list[dict[str, Any]]:
    """Return all readings of a password."""
    body = json.dumps({"data": {"db_password": password}})
    url = f"http://127.0.0.1:{run.port}/api/iot"
    command = ["curl", "-sS", "-X", "POST", url, "-H", "Content-Type: application/json"]
    done = subprocess.run([*command, "-d", body], capture_output=True, check=True, timeout=30)
    rows: list[dict[str, Any]] = json.loads(done.stdout)["data"]
    return rows


def caught_up(run: MakeRun) -> None:
    """Wait until the device has sent the readings that it buffered while the API was down."""
    newest = max(row["relative_timestamp"] for row in all_readings(run, "demo"))
    later = newest + 5_000_000
    assert wait_until(
        lambda: run.read_back("The simulated .*")[0]["relative_timestamp"] > later, PATIENCE, 0.2
    )


def sent_without_gap(rows: list[dict[str, Any]]) -> None:
    """Check that there are ten readings a second without a gap."""
    times = sorted({row["relative_timestamp"] for row in rows})
    assert times == list(range(0, times[-1] + 1, 100_000))


def _start_time(pid: int) -> int:
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    return int(stat.rpartition(")")[2].split()[19])
