"""The examples of the client's README run against the real service."""

import re
import subprocess
import sys
from pathlib import Path

from iot_sensor_client import Client
from support.stack import Stack
from support.waiting import wait_until

README = Path(__file__).parents[3] / "clients/python/README.md"
ADDRESS = "http://127.0.0.1:5000"


def test_the_examples(stack: Stack, tmp_path: Path) -> None:
    text = README.read_text(encoding="utf-8")
    url = stack.url
    first, outbox, pages, live, asynchronous = (
        example.replace(ADDRESS, url)
        for example in re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    )
    (shown,) = re.findall(r"This prints:\n\n```\n(.*?)```", text, re.DOTALL)
    folder = tmp_path / "examples"
    folder.mkdir()

    def run(example: str) -> str:
        process = start(example)
        printed, _ = process.communicate(timeout=60)
        assert process.returncode == 0, printed
        return printed

    def start(example: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-W", "error", "-c", example]
        return subprocess.Popen(
            command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    assert run(first) == shown
    assert run(outbox) == ""
    assert [each.name for each in folder.iterdir()] == ["readings.outbox"]
    with Client(url, "my password") as client:
        wait_until(lambda: len(client.read()) == 13, what="the readings of the outbox")
        printed = run(pages)
        assert printed.count('{"t":21.5}') == 10
        assert "freeform.rssi" in printed
        follower = start(live)
        while follower.poll() is None:  # the example ends at the first reading
            client.put_readings([{"relative_time": 14, "freeform": "new"}])
        assert follower.communicate()[0] == '14 "new"\n'
    assert len(run(asynchronous).splitlines()) > 13
