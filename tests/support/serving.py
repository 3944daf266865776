"""HTTP servers of tests, and kube configs for them."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import HTTPServer
from pathlib import Path


@contextmanager
def serving(server: HTTPServer) -> Iterator[None]:
    """Run a server in a thread within the block."""
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
    """Write a kube config for a server, a user and further fields of the context."""
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
