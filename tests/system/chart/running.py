"""Run the containers of rendered pods as processes of this machine.

The processes get exactly the variables, the arguments and the files of the manifests, with four
differences: mounted files are below a folder, ports are free ports, the name of a Service is the
address of its process, and scrypt has its minimum cost.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from chart.containers import MOUNTED, command, environment
from chart.made import arguments
from chart.references import files
from chart.release import COMPONENT, Object, Pod, Release
from iot_sensor_client import Client, NoResponseError
from iot_tools.local.ports import free_port
from iot_tools.local.redis_server import find_redis
from support.waiting import wait_until

Secrets = Mapping[str, Mapping[str, str]]
_SERVICE = re.compile(r"http://([a-z0-9-]+)\.([a-z0-9-]+)\.svc:(\d+)")
_LISTENED = {
    "IOT_BIND": "http",
    "IOT_API_METRICS_PORT": "metrics",
    "IOT_WRITER_METRICS_PORT": "metrics",
}


@dataclass(frozen=True)
class Ended:
    """The exit code, the log and the duration of a container."""

    code: int
    said: str
    seconds: float


class Node:
    """A node that runs the pods of one release."""

    def __init__(self, release: Release, folder: Path) -> None:
        self.release = release
        self.secrets: Secrets = {}
        """The content of the Secrets of the namespace."""
        self._folder = folder
        self._ports: dict[tuple[str, str], int] = {}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def port(self, component: str, name: str) -> int:
        """Return the local port for a port of a pod."""
        declared = {port["name"] for port in self._container(component).get("ports") or ()}
        assert name in declared, f"{component} has no port {name}"
        if (component, name) not in self._ports:
            self._ports[component, name] = free_port()
        return self._ports[component, name]

    def start(self, component: str, extra: Mapping[str, str] | None = None) -> None:
        """Start the container of a pod, with `extra` variables that are not in the manifest."""
        pod, container = self.release.runs(component)
        root = self._folder / component
        for each in ("tmp", "work"):
            (root / each).mkdir(parents=True, exist_ok=True)
        for path, reference, key in files(pod, container):
            laid = root / path.lstrip("/")
            laid.parent.mkdir(parents=True, exist_ok=True)
            laid.write_text(self.secrets[reference.name][key], encoding="utf-8")
            laid.chmod(0o440)
        words = [self._local(component, word) for word in command(pod, container)]
        if "--metrics-port" in words:
            words[words.index("--metrics-port") + 1] = str(self.port(component, "metrics"))
        with (root / "log").open("wb") as log:
            self._running[component] = subprocess.Popen(
                [_program(words[0]), *words[1:]],
                env={**self._environment(component, container, root), **(extra or {})},
                cwd=root / "work",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def run(self, component: str, extra: Mapping[str, str] | None = None) -> Ended:
        """Run a container until it exits."""
        began = time.monotonic()
        self.start(component, extra)
        try:
            code = self._running[component].wait(60)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{component} did not end: {self.said(component)}") from None
        return Ended(code, self.said(component), time.monotonic() - began)

    def stop(self, component: str) -> Ended:
        """Send SIGTERM, and wait for at most the grace period of the pod."""
        grace = self.release.runs(component)[0].spec.get("terminationGracePeriodSeconds", 30)
        began = time.monotonic()
        process = self._running[component]
        assert process.poll() is None, f"{component} ended before: {self.said(component)}"
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(grace)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{component} would be killed: {self.said(component)}") from None
        return Ended(code, self.said(component), time.monotonic() - began)

    def probe(self, component: str, kind: str) -> int:
        """Return the status of an HTTP probe, 0 while the port is closed."""
        asked = self._container(component)[f"{kind}Probe"]["httpGet"]
        return self.get(component, asked["port"], asked["path"])[0]

    def get(self, component: str, port: str, path: str) -> tuple[int, str]:
        """Return status and body of a GET."""
        client = Client(f"http://127.0.0.1:{self.port(component, port)}", keep_alive=False)
        try:
            response = client.request("GET", path, repeatable=False)
        except NoResponseError:
            return 0, ""
        return response.status, response.text()

    def wait_for_probe(self, component: str, kind: str) -> None:
        """Wait until the probe succeeds. Fail if the container exits first, or after a timeout."""

        def succeeds() -> bool:
            running = self._running[component].poll() is None
            assert running, f"{component} ended: {self.said(component)}"
            return self.probe(component, kind) == 200

        wait_until(succeeds, what=f"the {kind} of {component}")

    def said(self, component: str) -> str:
        """Return the log of the container."""
        return (self._folder / component / "log").read_text(encoding="utf-8", errors="replace")

    def written_outside(self) -> list[str]:
        """Return the files that containers wrote outside their writable volumes."""
        left = [path for name in self._running for path in (self._folder / name / "work").iterdir()]
        return [str(path) for path in left]

    def close(self) -> None:
        """Kill the running processes."""
        for process in self._running.values():
            if process.poll() is None:
                process.kill()
                process.wait()

    def _container(self, component: str) -> Object:
        return self.release.runs(component)[1]

    def _environment(self, component: str, container: Object, root: Path) -> dict[str, str]:
        given = environment(self.release, container)
        for each in container.get("env") or ():
            if "secretKeyRef" in each.get("valueFrom", {}):
                source = each["valueFrom"]["secretKeyRef"]
                given[each["name"]] = self.secrets[source["name"]][source["key"]]
        for name, port in _LISTENED.items():
            listens = {each["name"] for each in container.get("ports") or ()}
            # Each service listens on its own metrics port and has the variables of both.
            if name in given and port in listens and _whose(name) == component:
                local = str(self.port(component, port))
                given[name] = re.sub(r"(^|:)\d+$", rf"\g<1>{local}", given[name])
        given = {name: self._local(component, value) for name, value in given.items()}
        # From the image: PATH, and /tmp, its HOME, as TMPDIR.
        path = os.pathsep.join([str(Path(sys.executable).parent), "/usr/bin", "/bin"])
        tmp = str(root / "tmp")
        own = {"PATH": path, "HOME": tmp, "TMPDIR": tmp}
        # On a busy CPU, a scrypt at its full cost would take longer than a request waits.
        return {**own, "IOT_SCRYPT_LOG2_N": "10", **given}

    def _local(self, component: str, text: str) -> str:
        """Return `text` with local paths and addresses."""
        text = text.replace(MOUNTED, f"{self._folder / component}{MOUNTED}")
        return _SERVICE.sub(self._address, text)

    def _address(self, found: re.Match[str]) -> str:
        service = self.release.named("Service")[found[1]]
        assert found[2] == self.release.namespace
        (port,) = (each for each in service["spec"]["ports"] if each["port"] == int(found[3]))
        component = service["spec"]["selector"][COMPONENT]
        return f"http://127.0.0.1:{self.port(component, port['targetPort'])}"


def _whose(variable: str) -> str:
    return "writer" if "WRITER" in variable else "api"


def _program(name: str) -> str:
    """Return the path of a program, from the virtual environment or else from the system."""
    ours = Path(sys.executable).parent / name
    found = str(ours) if ours.exists() else shutil.which(name)
    assert found, name
    return found


def redis_of(pod: Pod, folder: Path, password: str) -> tuple[list[str], dict[str, str], int]:
    """Return command, variables and port of the pod with the release's own Redis.

    The shell of the pod finds the `redis-server` of this machine. `folder` replaces /data.
    """
    (container,) = pod.containers
    port, data = free_port(), folder / "data"
    (folder / "bin").mkdir(parents=True)
    data.mkdir()
    (folder / "bin" / "redis-server").symlink_to(find_redis()[0])
    *shell, script = arguments(container)
    assert shell == ["sh", "-c"]
    assert "dir /data\n" in script
    script = script.replace("dir /data\n", f"dir {data}\nport {port}\nbind 127.0.0.1\n")
    (name,) = (each["name"] for each in container["env"])
    variables = {"PATH": f"{folder / 'bin'}:/usr/bin:/bin", name: password}
    return [*shell, script], variables, port
