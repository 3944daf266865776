"""Servers of tests: answering meanwhile, and how a Kubernetes client gets there."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import HTTPServer
from pathlib import Path


@contextmanager
def serving(server: HTTPServer) -> Iterator[None]:
    """A server answers meanwhile, from a thread."""
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def write_kube_config(
    path: Path, url: str, *, user: Mapping[str, str], context: Mapping[str, str]
) -> Path:
    """A kube config that leads to `url`, as this user, with what else its context has."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": dict(user)}],
        "contexts": [{"name": "test", "context": {"cluster": "c", "user": "u", **context}}],
    }
    path.write_text(json.dumps(content), encoding="utf-8")
    return path
