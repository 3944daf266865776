"""Memory after a scrypt: none of it stays allocated."""

import subprocess
import sys

GROWTH = """
from iot_models.allocator import hand_back_large_blocks
from iot_cipher.vault import password_key

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

if {called}:
    hand_back_large_blocks()
password_key(b"p", b"s" * 16, 10)
before = resident()
for _ in range(3):
    password_key(b"p", b"s" * 16, 14)
print(resident() - before)
"""


def _growth(*, called: bool) -> int:
    program = GROWTH.format(called=called)
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_the_memory_of_scrypt_is_returned() -> None:
    left_alone = _growth(called=False)
    print(f"left alone, {left_alone:,} bytes stay")
    assert _growth(called=True) < 4 * 2**20
