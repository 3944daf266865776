"""VictoriaMetrics, as packaged by Debian."""

from urllib.parse import quote

from bench import readings
from bench.load import Wire
from bench.peers.side import HTTPPeer, request


class VictoriaMetrics(HTTPPeer):
    """VictoriaMetrics acknowledges a write once it is in memory."""

    name = "VictoriaMetrics"
    package = "victoria-metrics"
    program = "victoria-metrics"
    durability = "acknowledged = in memory, on disk seconds later; not encrypted"
    settings = (
        "line protocol, each field of a reading a series of its own; times cut to milliseconds"
    )
    wire = Wire("POST", "/write?precision=u", "text/plain", 204, readings.lines, readings.line)

    def command(self) -> list[str]:
        """Return the command: all settings are flags."""
        return [
            self.program,
            f"-storageDataPath={self.folder / 'data'}",
            f"-httpListenAddr=127.0.0.1:{self.port}",
            "-retentionPeriod=100y",
            "-loggerLevel=ERROR",
        ]

    def ready(self) -> bool:
        """Return whether the server is healthy."""
        request(self.port, "GET", "/health")
        return True

    def stored(self) -> int:
        """Flush the memory to disk and return the number of readings that are stored."""
        request(self.port, "GET", "/internal/force_flush")
        query = quote("sum(count_over_time(reading_phase[1d]))")
        at = readings.EPOCH_US // 10**6 + 86_400 // 2
        answer = request(self.port, "GET", f"/api/v1/query?query={query}&time={at}").json()
        found = answer["data"]["result"]
        return int(found[0]["value"][1]) if found else 0
