"""The thread that computes scrypt has a lower priority than its process, at every niceness."""

import os
import subprocess
import sys

import pytest

SHOW_NICENESS = """
import gevent.monkey
gevent.monkey.patch_all()
import os
from pathlib import Path
os.nice({increment})
from iot_api.vaults.scrypt_threads import slow_key
slow_key()(b"password", b"salt", 4)
print(*sorted(
    int((task / "stat").read_text().rpartition(")")[2].split()[16])
    for task in Path("/proc/self/task").iterdir()
))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has priorities of threads")
@pytest.mark.parametrize("increment", [0, 5, 15, 19])
def test_a_scrypt_thread_is_nicer_than_its_process(increment: int) -> None:
    code = SHOW_NICENESS.format(increment=increment)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    niceness = [int(each) for each in done.stdout.split()]
    assert niceness[0] == min(os.nice(0) + increment, 19)
    assert niceness[-1] == min(niceness[0] + 10, 19)
