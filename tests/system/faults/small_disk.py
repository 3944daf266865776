"""A small disk for the tables of Postgres, which can be filled (Linux, as root)."""

import ctypes
import os
import shutil
from contextlib import suppress
from pathlib import Path

from iot_tools.local.postgres_server import server_user

_BYTES = 384 * 2**20
_CLONE_NEWNS = 0x20000
_MS_PRIVATE, _MS_REC = 1 << 18, 1 << 14
_MNT_DETACH = 2


class SmallDisk:
    """A file system in memory that only this process and its children see, and that ends with the
    last of them. It must be created before any thread.
    """

    def __init__(self, directory: Path, size_bytes: int) -> None:
        """Mount the file system. Raise `OSError` without the right to do so."""
        self.directory = directory
        directory.mkdir()
        self._libc = libc = ctypes.CDLL(None, use_errno=True)
        _check(libc.unshare(_CLONE_NEWNS))
        _check(libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None))
        options = f"size={size_bytes},mode=0700"
        _check(libc.mount(b"tmpfs", os.fsencode(directory), b"tmpfs", 0, options.encode()))
        self.tables = directory / "tables"
        self.tables.mkdir(mode=0o700)
        os.chown(self.tables, server_user(), server_user())

    def fill(self) -> None:
        """Fill the disk. Repeat this to take what was freed since."""
        with self._ballast.open("ab", buffering=0) as ballast, suppress(OSError):
            os.posix_fallocate(ballast.fileno(), ballast.tell(), self._free())
            while ballast.write(bytes(4096)):
                pass

    def clear(self) -> None:
        """Free the filled space."""
        self._ballast.unlink(missing_ok=True)

    def empty(self) -> None:
        """Remove all tables."""
        for each in self.tables.iterdir():
            shutil.rmtree(each)

    def close(self) -> None:
        """Unmount the file system."""
        self._libc.umount2(os.fsencode(self.directory), _MNT_DETACH)

    @property
    def _ballast(self) -> Path:
        return self.directory / "ballast"

    def _free(self) -> int:
        state = os.statvfs(self.directory)
        return state.f_bavail * state.f_bsize


def make_small_disk(directory: Path, size_bytes: int, fault: str) -> SmallDisk | None:
    """Return a disk; without the right to mount, say that the fault is skipped, and return None."""
    try:
        return SmallDisk(directory, size_bytes)
    except (OSError, AttributeError) as error:
        print(f"skipped: {fault} needs a small disk ({error})")
        return None


def make_small_disks(folder: Path) -> list[SmallDisk]:
    """Return a disk for each of two servers, or none without the right to mount."""
    disks: list[SmallDisk] = []
    for number in range(2):
        disk = make_small_disk(folder / f"disk-{number}", _BYTES, DISK_FULL)
        if disk is None:
            return []
        disks.append(disk)
    return disks


DISK_FULL = "Postgres: disk full"


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
