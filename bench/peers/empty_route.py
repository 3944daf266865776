"""The empty route: the HTTP stack of the API with a view that does nothing."""

import os
import sys
from importlib.metadata import version

from flask import Flask, Response

from bench import readings
from bench.load import Connection, Wire
from bench.peers.side import Peer
from iot_tools.local.launcher import GUNICORN

PROCESSES = 2

app = Flask(__name__, static_folder=None)


@app.put("/api/iot")
def _put() -> Response:
    return Response(b'{"success":"1 object(s) created"}\n', 201, mimetype="application/json")


class EmptyRoute(Peer):
    """gunicorn with the API's worker and configuration, and a Flask app with one empty route."""

    name = "empty route"
    durability = "keeps nothing"
    settings = f"gunicorn, {PROCESSES} processes, our worker class and configuration"
    wire = Wire("PUT", "/api/iot", "application/json", 201,
                readings.json_readings, readings.json_reading)  # fmt: skip

    def command(self) -> list[str]:
        """Return the API's command, with another app."""
        return [sys.executable, *GUNICORN, "bench.peers.empty_route:app"]

    def environment(self) -> dict[str, str]:
        """Return the settings that the configuration needs."""
        return {
            **os.environ,
            "IOT_POSTGRES_URL": "postgresql:///none",
            "IOT_KEYRING_FILE": "none",
            "IOT_BIND": f"127.0.0.1:{self.port}",
            "IOT_API_WORKERS": str(PROCESSES),
            "IOT_API_METRICS_PORT": "0",
            "IOT_LOG_LEVEL": "ERROR",
        }

    def ready(self) -> bool:
        """Return whether the server listens."""
        with Connection(self.port):
            return True

    def version(self) -> str:
        """Return the versions of gunicorn and Flask."""
        return f"gunicorn {version('gunicorn')}, Flask {version('flask')}"

    def stored(self) -> int:
        """Return 0: the route stores nothing."""
        return 0
