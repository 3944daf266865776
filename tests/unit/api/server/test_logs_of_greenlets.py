"""Errors that nothing catches in a greenlet are events of the log."""

import json
import subprocess
import sys

CODE = """
import gevent
from iot_api.server.logs import log_uncaught_in_greenlets
from iot_models import logs
logs.start("json", "INFO")
log_uncaught_in_greenlets()
gevent.spawn(lambda: 1 / 0).join()
"""


def test_an_error_in_a_greenlet_is_an_event() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    (line,) = done.stderr.splitlines()
    assert "ZeroDivisionError" in json.loads(line)["traceback"]
