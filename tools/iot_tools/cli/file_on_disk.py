"""A small text file that commands change: a tokens.json or a keyring."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from iot_models.errors import SettingsError
from iot_models.text_files import MissingFileError, read_text, replace_file, sync_folder


class StoredText(Protocol):
    """A text in a file or in a Secret. Messages to the user contain its `name`."""

    name: str
    absence: str
    """Why the last `read` returned None, as a predicate: "does not exist"."""

    def read(self) -> str | None:
        """Return the text; None if the file, the Secret or the key in the Secret does not exist.

        Raises:
            IotError: the text can't be read.
        """

    def change(self, change: Callable[[str | None], str]) -> None:
        """Replace the text by `change(text)`, as a whole or not at all.

        Concurrent changes are not lost: `change` may be called again, with a newer text. If
        `change` raises an exception, the text stays as it is.

        Raises:
            IotError: the text can't be read or written.
        """


class FileOnDisk:
    """A text in a file. A change replaces the whole file and keeps its mode and owner."""

    absence = "does not exist"

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path.resolve()  # replaces the target of a symbolic link, not the link

    def read(self) -> str | None:
        """Return the text; None if the file does not exist.

        Raises:
            SettingsError: the file can't be read.
        """
        try:
            return read_text(self._path, self.name)
        except MissingFileError:
            return None

    def change(self, change: Callable[[str | None], str]) -> None:
        """Replace the text by what `change` returns. Concurrent changes wait for each other."""
        try:
            with self._lock():
                replace_file(self._path, change(self.read()), keep_mode_and_owner=True)
        except OSError as error:
            raise SettingsError(f"{self.name} can't be written: {error.strerror}") from None

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Lock the folder of the file during the block.

        The file itself is not locked: every change replaces it by a new file, and the lock would
        stay with the old one.
        """
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
            sync_folder(self._path.parent)
        finally:
            os.close(folder)
