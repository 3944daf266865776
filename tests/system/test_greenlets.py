"""Group commit with greenlets as threads, as in the API, in a process that gevent has patched."""

import subprocess
import sys
from pathlib import Path

import pytest

FILES: dict[str, list[str]] = {
    "test_group_commit.py": [],
    # redis-py leaves the socket to the garbage collector if a kill interrupts a connect.
    "killed_greenlets.py": ["-W", "ignore::ResourceWarning"],
}
_TESTS = Path(__file__).parents[1]
PATCHED = (
    "from gevent import monkey; monkey.patch_all(); import pytest; raise SystemExit(pytest.main())"
)


@pytest.mark.parametrize("file", FILES)
def test_group_commit_works_in_greenlets(file: str) -> None:
    path = _TESTS / "integration" / "stores" / file
    options = ["-q", "-p", "no:cacheprovider", *FILES[file], str(path)]
    done = subprocess.run(
        [sys.executable, "-c", PATCHED, *options],
        cwd=_TESTS.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
