"""A Kubernetes API server for Secrets over real HTTP, with its data in memory."""

import base64
import binascii
import json
import re
import ssl
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from support.serving import QuietHandler, serving, write_kube_config

USER = "system:serviceaccount:plant:iot-secrets"
_PATH = re.compile(r"/api/v1/namespaces/([^/]+)/secrets(?:/([^/]+))?")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "DELETE": "delete"}
_STATUSES = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
}


@dataclass(frozen=True)
class Asked:
    """A received request."""

    verb: str
    namespace: str
    name: str
    body: Any


class _RefusedError(Exception):
    def __init__(self, status: int, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason or _STATUSES[status]


class KubeApi:
    """A server that answers like Kubernetes, or with injected failures."""

    def __init__(self, *, tls: tuple[Path, Path] | None = None) -> None:
        """Create a server. `tls` is a certificate and its key."""
        self.token = f"token-{uuid.uuid4()}"
        self.namespaces = {"plant", "other"}
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.requests: list[Asked] = []
        self.denied: set[str | tuple[str, str]] = set()
        """Verbs, or pairs of verb and name, that the Role doesn't grant."""
        self.failures: list[int] = []
        """Statuses of the next answers, whose requests have no effect."""
        self.before: Callable[[Asked], None] = lambda _: None
        """A function that is called before a request is processed."""
        self.after: Callable[[Asked], None] = lambda _: None
        """A function that is called after a request was processed and before its answer. If it
        raises `ConnectionAbortedError`, the request gets no answer."""
        self._version = 1000
        self._lock = threading.RLock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_port
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"

    @contextmanager
    def running(self) -> Iterator["KubeApi"]:
        """Answer requests within the block."""
        with serving(self._server):
            yield self

    def kube_config(self, path: Path, namespace: str | None = "plant") -> Path:
        """Write a kube config for this server."""
        context = {"namespace": namespace} if namespace else {}
        return write_kube_config(path, self.url, user={"token": self.token}, context=context)

    def put(self, name: str, content: dict[str, str], namespace: str = "plant") -> None:
        """Store a Secret, as another client would."""
        encoded = {key: base64.b64encode(text.encode()).decode() for key, text in content.items()}
        with self._lock:
            self._keep(namespace, {"metadata": {"name": name}, "data": encoded})

    def content(self, name: str, namespace: str = "plant") -> dict[str, str]:
        """Return the content of a Secret."""
        data = self.objects[namespace, name]["data"]
        return {key: base64.b64decode(text).decode() for key, text in data.items()}

    def writes(self) -> list[tuple[str, str]]:
        """Return verb and name of every request that is not a read."""
        return [(each.verb, each.name) for each in self.requests if each.verb != "get"]

    def answer(self, asked: Asked, authorization: str) -> tuple[int, dict[str, Any]]:
        """Return status and body of the answer."""
        with self._lock:
            self.requests.append(asked)
        self.before(asked)
        try:
            with self._lock:
                done = self._do(asked, authorization)
        except _RefusedError as error:
            return error.status, _status(error)
        self.after(asked)
        return done

    def _do(self, asked: Asked, authorization: str) -> tuple[int, dict[str, Any]]:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or token != self.token:
            raise _RefusedError(401, "Unauthorized")
        if self.failures:
            status = self.failures.pop(0)
            raise _RefusedError(status, f"injected: {_STATUSES[status]}")
        if self.denied & {asked.verb, (asked.verb, asked.name)}:
            shown = "" if asked.verb == "create" else f' "{asked.name}"'
            raise _RefusedError(
                403,
                f'secrets{shown} is forbidden: User "{USER}" cannot {asked.verb} resource '
                f'"secrets" in API group "" in the namespace "{asked.namespace}"',
            )
        if asked.verb == "create":
            return self._create(asked)
        found = self.objects.get((asked.namespace, asked.name))
        if found is None:
            raise _RefusedError(404, f'secrets "{asked.name}" not found')
        if asked.verb == "update":
            return self._update(asked, found)
        if asked.verb == "delete":
            del self.objects[asked.namespace, asked.name]
        return 200, found

    def _create(self, asked: Asked) -> tuple[int, dict[str, Any]]:
        if asked.namespace not in self.namespaces:
            raise _RefusedError(404, f'namespaces "{asked.namespace}" not found')
        if (asked.namespace, asked.name) in self.objects:
            raise _RefusedError(409, f'secrets "{asked.name}" already exists', "AlreadyExists")
        return 201, self._keep(asked.namespace, asked.body)

    def _update(self, asked: Asked, found: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if found.get("immutable"):
            raise _RefusedError(422, f'Secret "{asked.name}" is invalid: data: is immutable')
        version = asked.body["metadata"].get("resourceVersion")
        if version and version != found["metadata"]["resourceVersion"]:
            raise _RefusedError(
                409,
                f'Operation cannot be fulfilled on secrets "{asked.name}": the object has been '
                "modified; please apply your changes to the latest version and try again",
            )
        return 200, self._keep(asked.namespace, asked.body)

    def _keep(self, namespace: str, body: dict[str, Any]) -> dict[str, Any]:
        metadata = body["metadata"]
        name = metadata["name"]
        wrong = [value for value in metadata.get("labels", {}).values() if not _fits(_LABEL, value)]
        if not _fits(_NAME, name) or wrong:
            raise _RefusedError(422, f'Secret "{name}" is invalid: metadata: Invalid value')
        for key, value in body.get("data", {}).items():
            _check_base64(key, value)
        self._version += 1
        fresh = {
            "uid": str(uuid.uuid4()),
            "creationTimestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        kept = {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "Opaque",
            **body,
            "metadata": {
                **fresh,
                **metadata,
                "namespace": namespace,
                "resourceVersion": str(self._version),
            },
        }
        self.objects[namespace, name] = kept
        return kept


def _fits(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _check_base64(key: str, value: str) -> None:
    try:
        base64.b64decode(value, validate=True)
    except binascii.Error:
        raise _RefusedError(400, f"illegal base64 data at data.{key}") from None


def _status(error: _RefusedError) -> dict[str, Any]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": str(error),
        "reason": error.reason,
        "code": error.status,
    }


def _handler(api: KubeApi) -> type[QuietHandler]:
    class Handler(QuietHandler):
        def _any(self) -> None:
            body = json.loads(self.body() or "null")
            found = _PATH.fullmatch(self.path)
            if found is None:
                status, answer = 404, _status(_RefusedError(404, "no such resource"))
            else:
                name = found[2] or (body or {})["metadata"]["name"]
                asked = Asked(_VERBS[self.command], found[1], name, body)
                try:
                    status, answer = api.answer(asked, self.headers.get("Authorization", ""))
                except ConnectionAbortedError:
                    self.close_connection = True
                    return
            try:
                headers = {"Content-Type": "application/json"}
                self.answer(status, json.dumps(answer).encode(), headers)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # the client was killed

        do_GET = do_POST = do_PUT = do_DELETE = _any  # noqa: N815 -- the names http.server calls

    return Handler
