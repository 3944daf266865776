"""Faults in which a second release starts on the Redis of this release."""

from iot_tools.local.child import wait_until
from system.faults.asking import ask
from system.faults.fault import Scene
from system.faults.readings import body

_START_SECONDS = 20.0


def second_release(scene: Scene) -> None:
    """Start a second release, which must take neither readings nor entries of this release."""
    api, writer, port = scene.service.second_release()
    for each in (api, writer):
        each.spawn()
    try:
        wait_until(lambda: ask(port, "GET", "/healthz")[0] != 0 or not api.running, _START_SECONDS)
        scene.last()
        _check_refused(port)
    finally:
        for each in (api, writer):
            each.stop()


def _check_refused(port: int) -> None:
    """Raise `RuntimeError` if the second release is ready or acknowledges readings."""
    content = body(0, 0, 1, ["of the second release"])
    for method, path, sent in (("GET", "/readyz", b""), ("PUT", "/api/iot", content)):
        status = ask(port, method, path, sent)[0]
        if 200 <= status < 300:
            raise RuntimeError(f"a second release answers {status} to {method} {path}")
