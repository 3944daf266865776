"""wrk, the load generator of single requests, with the same settings for all sides."""

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .load import Wire

THREADS, CONNECTIONS = 2, 64
PACKAGE = "wrk"
_SCRIPT = Path(__file__).with_name("wrk.lua")


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one run of wrk."""

    requests: int
    seconds: float
    p99_ms: float

    @property
    def per_second(self) -> float:
        """Requests/s."""
        return self.requests / self.seconds


def installed() -> bool:
    """Return whether wrk is installed."""
    return shutil.which("wrk") is not None


def run(port: int, wire: Wire, bodies: Sequence[str], *, seconds: int, folder: Path) -> Result:
    """Send the bodies in turn for some seconds.

    Raises:
        RuntimeError: wrk failed, or a request was refused or got no response.
    """
    path = folder / "bodies"
    path.write_text("\n".join(bodies) + "\n", encoding="utf-8")
    command = ["wrk", f"-t{THREADS}", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "10s"]
    command += ["-s", str(_SCRIPT), f"http://127.0.0.1:{port}", "--", str(path)]
    command += [wire.method, wire.path, wire.content_type, str(THREADS)]
    done = subprocess.run(  # noqa: S603 - arguments of our own
        command, capture_output=True, text=True, check=False, timeout=seconds + 30
    )
    results = [line for line in done.stdout.splitlines() if line.startswith("result ")]
    if done.returncode or not results:
        raise RuntimeError(f"wrk failed: {done.stdout}{done.stderr}")
    result = json.loads(results[0].removeprefix("result "))
    if result["refused"] or result["broken"]:
        raise RuntimeError(
            f"wrk: {result['refused']} refused, {result['broken']} without a response"
        )
    return Result(result["requests"], result["seconds"], result["p99_ms"])
