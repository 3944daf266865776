"""Import and export of many readings: data tools read the files, and memory is bounded.

`make test-transfer` runs it with 1,000,000 readings.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from support.stack import Stack

READINGS = int(os.environ.get("TRANSFER_READINGS", "20000"))
MAX_MIB = 300


def check_tables(folder: Path, count: int) -> None:
    """Check that pandas, polars and DuckDB read both files alike. The readings are `numbered`."""
    import duckdb  # noqa: PLC0415 - the three start threads: see `support/worker_server.py`
    import pandas as pd  # noqa: PLC0415
    import polars as pl  # noqa: PLC0415

    parquet, text = folder / "out.parquet", folder / "out.csv"
    expected = pl.DataFrame(
        {"relative_timestamp": range(count), "n": range(count)},
        schema={"relative_timestamp": pl.Int64, "n": pl.Int64},
    ).with_columns(
        (pl.col("n") * 0.5).alias("half"), pl.format("tag-{}", pl.col("n") % 7).alias("tag")
    )
    names = expected.columns
    for frame in (pl.read_parquet(parquet), pl.read_csv(text, try_parse_dates=True)):
        assert frame.select(names).equals(expected)
        assert frame["absolute_timestamp"].dtype.is_temporal()
    for table in (pd.read_parquet(parquet), pd.read_csv(text, parse_dates=["absolute_timestamp"])):
        assert pl.from_pandas(table[names]).equals(expected)
        assert "datetime64" in str(table["absolute_timestamp"].dtype)
    with duckdb.connect() as database:
        for source in (f"read_parquet('{parquet}')", f"read_csv('{text}')"):
            statement = f"SELECT {', '.join(names)}, absolute_timestamp FROM {source} ORDER BY n"  # noqa: S608
            kinds = database.execute(f"DESCRIBE {statement}").fetchall()
            assert [kind for _, kind, *_ in kinds[:4]] == ["BIGINT", "BIGINT", "DOUBLE", "VARCHAR"]
            assert kinds[4][1].startswith("TIMESTAMP")
            rows = database.execute(statement).fetchall()
            assert [row[:4] for row in rows] == expected.rows()


def numbered(path: Path, count: int) -> Path:
    """Write readings with numbers, fractions and texts as NDJSON."""
    with path.open("w") as file:
        for n in range(count):
            freeform = json.dumps({"n": n, "half": n * 0.5, "tag": f"tag-{n % 7}"})
            row = {
                "absolute_timestamp": f"2020-02-29 12:{n // 60 % 60:02}:{n % 60:02}",
                "relative_timestamp": n, "interrogator_timestamp": 1_600_000_000_000_000 + n,
                "freeform": freeform,
            }  # fmt: skip
            file.write(json.dumps(row) + "\n")
    return path


PROGRAM = """
import sys
from pathlib import Path
from iot_tools.cli.main import main
status = main(sys.argv[1:])
print(Path("/proc/self/status").read_text(), file=sys.stderr)
sys.exit(status)
"""


def run(stack: Stack, *arguments: str) -> tuple[str, str]:
    """Run `iot-sensor`. Return what it printed, and its time and memory."""
    url = stack.url
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments, "--url", url],
        env={**os.environ, "IOT_PASSWORD": "many"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    used = peak_mib(done.stderr)
    assert used < MAX_MIB
    return done.stdout, f"{arguments[0]}: {time.monotonic() - began:.1f} s, {used:.0f} MiB"


def peak_mib(status: str) -> float:
    """Return the most memory that a process has used, from its `/proc/PID/status`."""
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def test_many_readings_open_in_data_tools(stack: Stack, tmp_path: Path) -> None:
    file = numbered(tmp_path / "in.ndjson", READINGS)
    said, cost = run(stack, "import", str(file))
    print(cost)
    assert f"{READINGS} imported" in said
    for name in ("out.parquet", "out.csv"):
        said, cost = run(stack, "export", str(tmp_path / name), "--flatten")
        print(f"{name}: {cost}")
        assert said.splitlines()[0] == f"{READINGS} readings"
    said, cost = run(stack, "import", str(file))
    print(f"again: {cost}")
    assert f"{READINGS} were in the service before" in said
    servers = {"api": stack.workers(), "writer": {writer.pid for writer in stack.writers}}
    for kind, pids in servers.items():
        used = max(peak_mib(Path(f"/proc/{pid}/status").read_text()) for pid in pids)
        print(f"{kind}: {used:.0f} MiB")
        assert used < MAX_MIB
    check_tables(tmp_path, READINGS)
