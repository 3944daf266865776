"""Small text files that hold secrets and settings: keyrings, tokens, passwords, URLs."""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import SettingsError

BYTE_ORDER_MARK = "\ufeff"
_NO_FOLDER_SYNC = (errno.EACCES, errno.EINVAL, errno.ENOTSUP)


class MissingFileError(SettingsError):
    """A file does not exist."""


def read_text(path: Path, name: str | None = None) -> str:
    """Read a UTF-8 file. Drop the byte order mark that editors on Windows write.

    Error messages call the file `name`, by default its path.

    Raises:
        MissingFileError: the file does not exist.
        SettingsError: the file can't be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise MissingFileError(f"{name or path} can't be read: {error.strerror}") from None
    except OSError as error:
        raise SettingsError(f"{name or path} can't be read: {error.strerror}") from None
    except UnicodeDecodeError:  # its message would repeat a part of the secret
        raise SettingsError(f"{name or path} can't be read: it is not UTF-8 text") from None


def read_line(path: Path, name: str | None = None) -> str:
    """Read the only line of a file, without surrounding white space; return "" for an empty file.

    Raises:
        SettingsError: the file can't be read, or has more than one line.
    """
    text = read_text(path, name).strip()
    if len(text.splitlines()) > 1:
        raise SettingsError(f"{name or path} holds more than one line")
    return text


def replace_file(
    path: Path, text: str, *, mode: int = 0o600, keep_mode_and_owner: bool = False
) -> None:
    """Write a file as a whole: readers see the old text or the new text, even after a crash.

    With `keep_mode_and_owner`, an existing file keeps its mode and its owner.

    Raises:
        OSError: the file can't be written; it is unchanged.
    """
    with _draft(path, text, mode, keep_mode_and_owner=keep_mode_and_owner) as draft:
        draft.replace(path)


def sync_file(path: Path) -> None:
    """Wait until a file survives a power loss. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Wait until the names of the files in a folder survive a power loss.

    Do nothing if this process may not read the folder, or if its file system can't sync folders:
    the files are complete, and the file system writes their names later.

    Raises:
        OSError: the names can't be written.
    """
    try:
        sync_file(folder)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise


def is_unicode(text: str) -> bool:
    """Return whether a text can be encoded in UTF-8.

    A text that Python decoded from other bytes than UTF-8 (error handler `surrogateescape`) has
    surrogates, which can't be encoded.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def create_file(path: Path, text: str) -> bool:
    """Write a new file as a whole, readable by its owner only.

    If the file exists already, do not change it, and return False. Of two concurrent calls, one
    returns True.

    Raises:
        OSError: the file can't be written.
    """
    if path.exists():
        return False
    with _draft(path, text, 0o600) as draft:
        try:
            os.link(draft, path)
        except FileExistsError:
            return False
    return True


@contextmanager
def _draft(
    path: Path, text: str, mode: int, *, keep_mode_and_owner: bool = False
) -> Iterator[Path]:
    """Write the text to a temporary file next to `path`, and yield the path of this file.

    The temporary file is deleted at the end, unless the `with` block has renamed it.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            if keep_mode_and_owner:
                _copy_mode_and_owner(path, file.fileno())
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # before the rename, or a crash could leave an empty file
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def _copy_mode_and_owner(path: Path, descriptor: int) -> None:
    try:
        old = path.stat()
    except FileNotFoundError:
        return
    new = os.fstat(descriptor)
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        os.fchown(descriptor, old.st_uid, old.st_gid)
    os.fchmod(descriptor, old.st_mode & 0o777)
