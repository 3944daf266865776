"""Profiles of one API process and of the writer, by py-spy, and the CPU of each stage from them.

py-spy samples a process from outside, 200 times a second, those of its threads that run then; the
process goes on meanwhile, for to stop it wakes its waiting threads. A sample counts for the stage
whose code is nearest to the top of its stack, so what a stage has done by libraries counts for it.
A thread that waits for a core counts as running: a call that wakes another process shows large.
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
    "compress and seal": ("iot_cipher/envelope.py", "iot_models/entry.py"),
    "Redis client": (
        "iot_stores/backlog.py", "iot_stores/group_commit.py", "iot_stores/scripts.py", "redis/",
    ),
    "decrypt and decode": (
        "iot_cipher/sealed_segment.py", "iot_models/segment.py", "iot_api/query/segment_reader.py",
        "iot_api/query/segment_rows.py",
    ),
    "merge": ("iot_api/query/merge.py", "iot_api/query/read_order.py", "iot_api/query/readings.py"),
    "Postgres client": ("iot_stores/history.py", "psycopg"),
    "metrics": ("prometheus_client/", "iot_models/metrics.py"),
    "intake, vault lookup": (
        "iot_api/ingest/intake.py", "iot_api/vaults/opening.py", "iot_cipher/",
    ),
    "views": ("iot_api/routes/", "iot_api/ingest/endpoint.py", "iot_api/http/request_body.py"),
    "Flask": ("flask/", "werkzeug/"),
    "HTTP (gunicorn)": ("gunicorn/", "iot_api/server/gunicorn_worker.py"),
}  # fmt: skip
WRITER_STAGES = {
    "open": ("iot_cipher/envelope.py", "iot_models/entry.py"),
    "segment": (
        "iot_writer/drain/segment_builder.py",
        "iot_models/segment.py",
        "iot_cipher/sealed_segment.py",
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
"""Of each stage, what its files' paths hold. Looked up from the top of a stack on down."""


@dataclass(frozen=True, slots=True)
class Profile:
    """Samples by stack; a stack is frames from the outermost on, `function (file:line)`."""

    stacks: Counter[tuple[str, ...]]

    @property
    def samples(self) -> int:
        """In all."""
        return self.stacks.total()

    def by_stage(self, stages: dict[str, tuple[str, ...]]) -> dict[str, float]:
        """The share of each stage, and of all else."""
        shares = Counter[str]()
        for stack, count in self.stacks.items():
            shares[_stage(stack, stages)] += count
        return {name: shares[name] / max(1, self.samples) for name in (*stages, LOOP, OTHER)}

    def text(self, top: int = 20) -> str:
        """The functions in which most time goes: on their own, and with all they call."""
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
    """The path of py-spy, or None."""
    beside = Path(sys.executable).with_name("py-spy")
    return str(beside) if beside.exists() else shutil.which("py-spy")


class Recording:
    """py-spy at work on a process for some seconds."""

    def __init__(self, pid: int, seconds: int, path: Path) -> None:
        program = available()
        if program is None:
            raise RuntimeError("py-spy is not installed; `make bench` brings it")
        self._path, self._seconds = path, seconds
        command = [program, "record", "--pid", str(pid), "--duration", str(seconds)]
        command += ["--rate", str(RATE), "--format", "raw", "--nonblocking"]
        self._process = subprocess.Popen(  # noqa: S603 - arguments of our own
            [*command, "--output", str(path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def finish(self) -> Profile:
        """What it recorded; `RuntimeError` when it could not, as without the right to trace."""
        try:
            said, _ = self._process.communicate(timeout=self._seconds + 30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            raise
        if self._process.returncode or not self._path.exists():
            raise RuntimeError(f"py-spy failed: {said.decode(errors='replace')[-300:]}")
        return parse(self._path.read_text(encoding="utf-8"))


def parse(text: str) -> Profile:
    """Samples as py-spy writes them, a stack a line: `outermost;...;innermost count`."""
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
    # Its sockets are everybody's: what is under a stage counted for that one.
    return LOOP if any("gevent/" in frame for frame in stack) else OTHER


def _function(frame: str) -> str:
    """`function (package/file.py)`, without the folders above and the line."""
    name, _, place = frame.partition(" (")
    file = place.rstrip(")").rpartition(":")[0] or place.rstrip(")")
    return f"{name} ({'/'.join(file.split('/')[-2:])})"
