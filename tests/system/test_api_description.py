"""The running service answers as its description says.

schemathesis sends valid and invalid requests, as `schemathesis.toml` says.
"""

import os
import subprocess
import sys
from pathlib import Path

from support.stack import MakeStack

FOLDER = Path(__file__).parent
LIMITS = {
    # schemathesis sends as many readings as a request may hold, and one more.
    "IOT_MAX_READINGS": "20",
    "IOT_ACK_STORED_SECONDS": "1",
    "IOT_TRUSTED_PROXIES": "1",
}


def test_responses_conform_to_the_description(make_stack: MakeStack, tmp_path: Path) -> None:
    stack = make_stack(LIMITS)
    url = f"{stack.url}/openapi.json"
    done = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", "--config-file", FOLDER / "schemathesis.toml",
         "run", url, "--no-color"],
        capture_output=True, text=True, timeout=120, cwd=tmp_path, check=False,
        env={**os.environ, "NO_PROXY": "127.0.0.1", "PYTHONPATH": str(FOLDER.parent)},
    )  # fmt: skip
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Coverage" in done.stdout
