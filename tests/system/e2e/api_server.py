"""A Kubernetes API server with a kubelet for tests.

The server stores objects, refuses invalid objects and runs the command of a pod as a process.
"""

import json
import os
import re
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from chart.podsecurity import violations
from chart.schemas import NEWEST, mistakes
from support.serving import QuietHandler, serving, write_kube_config

Object = dict[str, Any]
Key = tuple[str, str, str]
"""Plural kind, namespace and name."""
_PATH = re.compile(
    r"/apis?/(?:[a-z0-9.]+/)?v[12](?:/namespaces/(?P<namespace>[^/]+)(?=/))?/(?P<kind>[a-z]+)"
    r"(?:/(?P<name>[^/]+))?(?:/(?P<sub>[a-z]+))?"
)


class RefusedError(Exception):
    """A refused request, with the status of the answer and the reason."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class ApiServer:
    """An API server over HTTP without authentication."""

    def __init__(self, folder: Path) -> None:
        """Replace /etc/e2e in the commands of pods by `folder`."""
        self.objects: dict[Key, Object] = {}
        self.asked: list[tuple[str, str, Any]] = []
        """Method, path with query, body."""
        self.failures: list[int] = []
        """Statuses of the next answers."""
        self.busy_evictions = 0
        self.react: Callable[[str, Key], None] = lambda _, __: None
        """Called with "deleted" or "scaled" after the event."""
        self._folder = folder
        self.rename = {"/etc/e2e": str(folder)}
        """Replacements in the commands of pods."""
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._version = 0
        self._lock = threading.RLock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def running(self) -> Iterator["ApiServer"]:
        """Serve within the block, and kill the processes of pods at its end."""
        try:
            with serving(self._server):
                yield self
        finally:
            for process in self._processes.values():
                process.kill()
                process.wait()

    def kube_config(self, path: Path) -> Path:
        """Write a kube config for this server."""
        return write_kube_config(path, self.url, user={}, context={})

    def keep(self, kind: str, namespace: str, name: str, /, **content: Any) -> Object:
        """Store an object."""
        with self._lock:
            self._version += 1
            metadata = {
                "name": name,
                "uid": str(uuid.uuid4()),
                "resourceVersion": str(self._version),
                **content.pop("metadata", {}),
            }
            kept = {"metadata": metadata, **content}
            self.objects[kind, namespace, name] = kept
            return kept

    def answer(self, method: str, url: str, body: Any) -> tuple[int, Any]:
        """Return status and content of the answer."""
        with self._lock:
            self.asked.append((method, url, body))
            if self.failures:
                return self.failures[0], _status(self.failures.pop(0), "injected")
            parts = urlsplit(url)
            if parts.path == "/version/":
                return 200, {"gitVersion": f"v{NEWEST}.0", "major": "1", "minor": "99"} | _BUILT
            found = _PATH.fullmatch(parts.path)
            try:
                if found is None:
                    return 404, _status(404, f"no such path: {parts.path}")
                named = {name: value or "" for name, value in found.groupdict().items()}
                key = named["kind"], named["namespace"], named["name"]
                return self._do(method, key, named["sub"], body, parse_qs(parts.query))
            except RefusedError as error:
                return error.status, _status(error.status, str(error))

    def _do(
        self, method: str, key: Key, sub: str, body: Any, query: dict[str, list[str]]
    ) -> tuple[int, Any]:
        kind, namespace, name = key
        if method == "POST" and not sub:
            return 201, self._create(kind, namespace, body)
        if not name:
            return 200, self._list(kind, namespace, query)
        if key not in self.objects:
            raise RefusedError(404, f"{kind} {name} not found")
        if method == "DELETE":
            gone = self.objects.pop(key)
            for inside in [each for each in self.objects if each[1] == name]:
                del self.objects[inside]
            self.react("deleted", key)
            return 200, gone | {"status": {"phase": "Terminating"}}
        if sub == "log":
            return 200, self._log(name, query)
        if sub == "eviction":
            return self._evict(key, body)
        if method == "PATCH":
            self._merge(self.objects[key], body)
            self._wish(key)
            if sub == "scale":
                self.react("scaled", key)
        self._look(key)
        return 200, self.objects[key]

    def _create(self, kind: str, namespace: str, body: Object) -> Object:
        if wrong := mistakes(body, NEWEST):
            raise RefusedError(422, "; ".join(wrong))
        metadata = dict(body["metadata"])
        name = metadata.get("name") or metadata["generateName"] + uuid.uuid4().hex[:5]
        if kind == "pods":
            if refused := violations(metadata, body["spec"]):
                raise RefusedError(403, "; ".join(refused))
            body = {**body, "status": {"phase": "Pending"}}
            self._run(name, body["spec"]["containers"][0]["command"])
        if kind == "namespaces":
            self.keep("serviceaccounts", name, "default")
        return self.keep(kind, namespace, name, **{**body, "metadata": {**metadata, "name": name}})

    def _list(self, kind: str, namespace: str, query: dict[str, list[str]]) -> Object:
        wanted = dict(
            each.split("=") for text in query.get("labelSelector", []) for each in text.split(",")
        )
        items = [
            each
            for key, each in self.objects.items()
            if key[0] == kind
            and key[1] == namespace
            and wanted.items() <= each["metadata"].get("labels", {}).items()
        ]
        return {"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items}

    def _evict(self, key: Key, body: Object) -> tuple[int, Object]:
        if wrong := mistakes(body, NEWEST):
            raise RefusedError(422, "; ".join(wrong))
        if self.busy_evictions:
            self.busy_evictions -= 1
            raise RefusedError(429, "it would violate the pod's disruption budget")
        del self.objects[key]
        self.react("deleted", key)
        return 201, _status(201, "")

    def _merge(self, found: Object, patch: Object) -> None:
        for name, value in patch.items():
            if isinstance(value, dict) and isinstance(found.get(name), dict):
                self._merge(found[name], value)
            elif value is None:
                found.pop(name, None)
            else:
                found[name] = value

    def _run(self, name: str, command: list[str]) -> None:
        words = list(command)
        for old, new in self.rename.items():
            words = [word.replace(old, new) for word in words]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        with (self._folder / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(
                words, stdout=log, stderr=log, env={**os.environ, "PATH": path}
            )

    def _wish(self, key: Key) -> None:
        """Write the file that the downward API would write into the pod."""
        stop = self.objects[key]["metadata"].get("annotations", {}).get("iot-sensor-e2e/stop")
        if key[0] == "pods" and stop:
            (self._folder / "wishes").mkdir(exist_ok=True)
            (self._folder / "wishes/stop").write_text(stop, encoding="utf-8")

    def _look(self, key: Key) -> None:
        """Update the status of a pod from its process."""
        process = self._processes.get(key[2])
        if key[0] != "pods" or process is None:
            return
        code = process.poll()
        state = {"running": {}} if code is None else {"terminated": {"exitCode": code}}
        container = {"name": "c", "image": "i", "imageID": "i", "ready": True, "restartCount": 0}
        self.objects[key]["status"] = {
            "phase": "Running" if code is None else "Failed" if code else "Succeeded",
            "podIP": "127.0.0.1",
            "containerStatuses": [{**container, "state": state}],
        }

    def _log(self, name: str, query: dict[str, list[str]]) -> str:
        text = (self._folder / f"{name}.log").read_text(encoding="utf-8")
        (tail,) = query.get("tailLines", ["1000000"])
        return "".join(text.splitlines(keepends=True)[-int(tail) :])


_BUILT = dict.fromkeys(
    ("gitCommit", "gitTreeState", "buildDate", "goVersion", "compiler", "platform"), ""
)


def _status(code: int, message: str) -> Object:
    status = "Success" if code < 400 else "Failure"
    return {"kind": "Status", "apiVersion": "v1", "status": status, "code": code,
            "metadata": {}, "message": message}  # fmt: skip


def ready_pod(labels: Mapping[str, str], node: str = "node-1") -> Object:
    """Return the content of a ready pod."""
    return {
        "metadata": {"labels": dict(labels)},
        "spec": {"nodeName": node, "containers": []},
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}],
            "startTime": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        },
    }


def _handler(api: ApiServer) -> type[QuietHandler]:
    class Handler(QuietHandler):
        def _any(self) -> None:
            body = json.loads(self.body() or "null")
            status, answer = api.answer(self.command, self.path, body)
            text = answer if isinstance(answer, str) else json.dumps(answer)
            kind = "text/plain" if isinstance(answer, str) else "application/json"
            self.answer(status, text.encode(), {"Content-Type": kind})

        do_GET = do_POST = do_PATCH = do_DELETE = _any  # noqa: N815 -- the names http.server calls

    return Handler
