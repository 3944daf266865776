"""Profiles of one API process and of the writer by py-spy, and the CPU of each stage.

py-spy samples the running threads of a process from outside, 200 times a second. It does not pause
the process (`--nonblocking`), because a pause wakes waiting threads. A sample counts for the stage
whose code is nearest to the top of the stack, so library calls of a stage count for the stage. A
thread that waits for a core counts as running. If a call wakes another process, that process may
take the core of the thread. The thread then waits within the call, and the call looks expensive.
"""

import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

RATE = 200
OTHER = "all else"
LOOP = "event loop (gevent)"

API_STAGES = {
    "JSON of answers": ("iot_api/query/responses.py",),
    "parse": ("iot_api/ingest/parser.py",),
    "Redis client": (
        "iot_stores/backlog", "iot_stores/append", "iot_stores/scripts.py", "redis/",
    ),
    "encryption, entries, segments": (
        "iot_cipher/encryption.py", "iot_models/segment",
    ),
    "merge": ("iot_api/query/",),
    "Postgres client": ("iot_stores/history.py", "psycopg"),
    "metrics": ("prometheus_client/", "iot_models/metrics.py"),
    "intake, vault lookup": (
        "iot_api/ingest/intake.py", "iot_api/ingest/put_openings.py", "iot_api/vaults/",
        "iot_cipher/",
    ),
    "views": ("iot_api/routes/", "iot_api/ingest/endpoint.py", "iot_api/http/"),
    "Flask": ("flask/", "werkzeug/"),
    "HTTP (gunicorn)": ("gunicorn/", "httptools/", "iot_api/server/"),
}  # fmt: skip
WRITER_STAGES = {
    "encryption, entries, segments": (
        "iot_writer/drain/segment_builder.py",
        "iot_models/segment",
        "iot_cipher/encryption.py",
    ),
    "hot window": ("iot_stores/hot_window.py",),
    "Postgres client": (
        "iot_stores/history.py",
        "iot_stores/ledger.py",
        "iot_writer/maintenance/partitions.py",
        "psycopg",
    ),
    "Redis client": ("iot_stores/backlog.py", "redis/"),
    "RQ": ("rq/",),
    "drain, all else": ("iot_writer/", "iot_stores/", "iot_models/"),
}  # fmt: skip
"""For each stage of the code: parts of the paths of its files. A sample counts for the stage whose
file is nearest to the top of the stack."""


@dataclass(frozen=True, slots=True)
class Profile:
    """Number of samples by stack.

    A stack is a tuple of frames, `function (file:line)`, from the outermost frame on.
    """

    stacks: Counter[tuple[str, ...]]

    @property
    def samples(self) -> int:
        """Number of samples."""
        return self.stacks.total()

    def by_stage(self, stages: dict[str, tuple[str, ...]]) -> dict[str, float]:
        """Return the shares of the samples: of each stage, of the event loop and of all else."""
        shares = Counter[str]()
        for stack, count in self.stacks.items():
            shares[_stage(stack, stages)] += count
        return {name: shares[name] / max(1, self.samples) for name in (*stages, LOOP, OTHER)}

    def text(self, top: int = 20) -> str:
        """Return a table of the `top` functions that take most time themselves.

        Each line has two shares of the samples: of the function's own code, and of this code with
        the functions that it calls.
        """
        own, with_all = Counter[str](), Counter[str]()
        for stack, count in self.stacks.items():
            own[_function(stack[-1])] += count
            for function in {_function(frame) for frame in stack}:
                with_all[function] += count
        lines = [f"{self.samples} samples", "", "  own   with what it calls"]
        lines += [
            f"{100 * count / self.samples:5.1f} % {100 * with_all[function] / self.samples:5.1f} %"
            f"  {function}"
            for function, count in own.most_common(top)
        ]
        return "\n".join(lines)


def available() -> str | None:
    """Return the path of py-spy; None if py-spy is not installed."""
    beside = Path(sys.executable).with_name("py-spy")
    return str(beside) if beside.exists() else shutil.which("py-spy")


class Recording:
    """A running py-spy that records a process."""

    def __init__(self, pid: int, seconds: int, path: Path) -> None:
        program = available()
        if program is None:
            raise RuntimeError("py-spy is not installed: run `make bench`, which installs it")
        self._path, self._seconds = path, seconds
        command = [program, "record", "--pid", str(pid), "--duration", str(seconds)]
        command += ["--rate", str(RATE), "--format", "raw", "--nonblocking"]
        self._process = subprocess.Popen(  # noqa: S603 - arguments of our own
            [*command, "--output", str(path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def finish(self) -> Profile:
        """Wait for py-spy, and return the profile.

        Raises:
            RuntimeError: py-spy failed, for example because tracing is forbidden.
            TimeoutExpired: py-spy did not end in time.
        """
        try:
            output, _ = self._process.communicate(timeout=self._seconds + 30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            raise
        if self._process.returncode or not self._path.exists():
            raise RuntimeError(f"py-spy failed: {output.decode(errors='replace')[-300:]}")
        return parse(self._path.read_text(encoding="utf-8"))


def parse(text: str) -> Profile:
    """Parse py-spy's raw format, one stack per line: `outermost;...;innermost count`."""
    stacks = Counter[tuple[str, ...]]()
    for line in text.splitlines():
        frames, _, count = line.rpartition(" ")
        if frames:
            stacks[tuple(frames.split(";"))] += int(count)
    return Profile(stacks)


def _stage(stack: tuple[str, ...], stages: dict[str, tuple[str, ...]]) -> str:
    for frame in reversed(stack):
        for name, places in stages.items():
            if any(place in frame for place in places):
                return name
    # The event loop last: all stages use its sockets, and such samples count for the stage.
    return LOOP if any("gevent/" in frame for frame in stack) else OTHER


def _function(frame: str) -> str:
    """Return a frame as `function (package/file.py)`."""
    name, _, place = frame.partition(" (")
    file = place.rstrip(")").rpartition(":")[0] or place.rstrip(")")
    return f"{name} ({'/'.join(file.split('/')[-2:])})"
