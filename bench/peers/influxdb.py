"""InfluxDB 1.6, as packaged by Debian."""

import os
from urllib.parse import quote

from bench import readings
from bench.load import Wire
from bench.peers.side import HTTPPeer, request
from iot_tools.local.ports import free_port

_DATABASE = "bench"
_CHUNK = 20_000


class InfluxDB(HTTPPeer):
    """InfluxDB syncs its WAL to disk before it acknowledges a write."""

    name = "InfluxDB"
    package = "influxdb"
    program = "influxd"
    durability = "acknowledged = in its WAL, fsynced; not encrypted"
    settings = (
        "tsi1 index; wal-fsync-delay 0s (each write is synced before its answer); logs, reports "
        "and self-monitoring off; vault and epc96 as tags, all else as integer fields; "
        f"reads in chunks of {_CHUNK:,}"
    )
    wire = Wire(
        "POST", f"/write?db={_DATABASE}&precision=u", "text/plain", 204,
        readings.lines, readings.line,
    )  # fmt: skip

    def command(self) -> list[str]:
        """Return the command: it has no arguments, because all settings are in the environment."""
        return [self.program]

    def environment(self) -> dict[str, str]:
        """Return the environment of this process, with all settings of InfluxDB."""
        return {
            **os.environ,
            "INFLUXDB_META_DIR": str(self.folder / "meta"),
            "INFLUXDB_DATA_DIR": str(self.folder / "data"),
            "INFLUXDB_DATA_WAL_DIR": str(self.folder / "wal"),
            "INFLUXDB_DATA_INDEX_VERSION": "tsi1",
            "INFLUXDB_DATA_WAL_FSYNC_DELAY": "0s",
            "INFLUXDB_DATA_QUERY_LOG_ENABLED": "false",
            "INFLUXDB_HTTP_BIND_ADDRESS": f"127.0.0.1:{self.port}",
            "INFLUXDB_HTTP_LOG_ENABLED": "false",
            "INFLUXDB_BIND_ADDRESS": f"127.0.0.1:{free_port()}",
            "INFLUXDB_MONITOR_STORE_ENABLED": "false",
            "INFLUXDB_REPORTING_DISABLED": "true",
        }

    def ready(self) -> bool:
        """Return whether the server answers a ping."""
        request(self.port, "GET", "/ping")
        return True

    def prepare(self) -> None:
        """Create the database."""
        request(self.port, "POST", f"/query?q={quote(f'CREATE DATABASE {_DATABASE}')}")

    def stored(self) -> int:
        """Return the number of points in the database."""
        return self._count("")

    def count(self, vault: str) -> int:
        """Return the number of points of one vault."""
        return self._count(f" WHERE vault='{vault}'")

    def read_path(self, vault: str) -> str:
        """Return the path that reads all points of a vault, in columns."""
        query = quote(f"SELECT * FROM reading WHERE vault='{vault}'")  # noqa: S608 - our own names
        return f"/query?db={_DATABASE}&epoch=u&chunked=true&chunk_size={_CHUNK}&q={query}"

    def _count(self, where: str) -> int:
        query = quote(f"SELECT count(phase) FROM reading{where}")  # noqa: S608 - our own names
        answer = request(self.port, "GET", f"/query?db={_DATABASE}&q={query}").json()
        series = answer["results"][0].get("series")
        return int(series[0]["values"][0][1]) if series else 0
