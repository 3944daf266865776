"""A tokens.json in a file."""

import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from iot_models.errors import SettingsError
from iot_models.text_files import read_text

_NEW_MODE = 0o600


class TokensOnDisk:
    """A tokens.json in a file, which is replaced as a whole and keeps its mode and owner.

    Whoever reads it meanwhile sees the old text or the new one.
    """

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path.resolve()  # a link stays, and what it names is replaced

    def read(self) -> str | None:
        """The text as it stands, None when there is no file."""
        try:
            return read_text(self._path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SettingsError(f"{self.name} can't be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise SettingsError(f"{self.name} can't be read: it is not UTF-8 text") from None

    def change(self, change: Callable[[str | None], str]) -> None:
        """Keep what `change` makes of the text; of several at once, one after the other."""
        try:
            with self._alone():
                self._write(change(self.read()))
        except OSError as error:
            raise SettingsError(f"{self.name} can't be written: {error.strerror}") from None

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the folder's lock, since the file itself is another one after each change."""
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
            os.fsync(folder)
        finally:
            os.close(folder)

    def _write(self, text: str) -> None:
        draft = self._path.with_name(f".{self._path.name}.{secrets.token_hex(8)}")
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _NEW_MODE)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                self._be_as_before(file.fileno())
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._path)
        except BaseException:
            draft.unlink()
            raise

    def _be_as_before(self, handle: int) -> None:
        """Who could read the file can read it on."""
        try:
            before = self._path.stat()
        except FileNotFoundError:
            return
        now = os.fstat(handle)
        if (before.st_uid, before.st_gid) != (now.st_uid, now.st_gid):
            os.fchown(handle, before.st_uid, before.st_gid)
        os.fchmod(handle, before.st_mode & 0o777)
