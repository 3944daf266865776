"""wrk, the load generator of single requests: the same settings for every side."""

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
    """What one run of wrk counted."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def per_second(self) -> float:
        """Requests answered."""
        return self.requests / self.seconds


def installed() -> bool:
    """Whether it is here."""
    return shutil.which("wrk") is not None


def run(port: int, wire: Wire, bodies: Sequence[str], *, seconds: int, folder: Path) -> Result:
    """Send the bodies over and over for so long.

    Raises `RuntimeError` when any was refused or got no answer.
    """
    path = folder / "bodies"
    path.write_text("\n".join(bodies) + "\n", encoding="utf-8")
    command = ["wrk", f"-t{THREADS}", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "10s"]
    command += ["-s", str(_SCRIPT), f"http://127.0.0.1:{port}", "--", str(path)]
    command += [wire.method, wire.path, wire.content_type, str(THREADS)]
    done = subprocess.run(  # noqa: S603 - arguments of our own
        command, capture_output=True, text=True, check=False, timeout=seconds + 30
    )
    told = [line for line in done.stdout.splitlines() if line.startswith("result ")]
    if done.returncode or not told:
        raise RuntimeError(f"wrk failed: {done.stdout}{done.stderr}")
    said = json.loads(told[0].removeprefix("result "))
    if said["refused"] or said["broken"]:
        raise RuntimeError(f"wrk: {said['refused']} refused, {said['broken']} broken off")
    return Result(said["requests"], said["seconds"], said["p50_ms"], said["p99_ms"])
