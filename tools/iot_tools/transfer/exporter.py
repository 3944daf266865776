"""The export of a vault's readings into files.

1. Fetch the readings page by page into a spool beside the file. If a run is killed, the next run
   continues after the last page in the spool.
2. Write the files from the spool under temporary names, then rename them: a file with its final
   name is complete, even after a power loss. Then delete the spool.
"""

import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from glob import escape
from pathlib import Path

from msgspec.structs import astuple

from iot_models.errors import IotError
from iot_models.reading import Reading
from iot_models.text_files import sync_file, sync_folder

from .export_columns import Columns, flattened_columns
from .export_spool import ExportSpool
from .export_writers import (
    CsvWriter,
    LegacyWriter,
    NdjsonWriter,
    OpenWriter,
    ParquetWriter,
    Writer,
)
from .importer import Progress
from .parquet import pyarrow
from .service_pages import CursorError, ServicePages

FORMATS = {".csv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson", ".parquet": "parquet",
           ".db": "sqlite", ".sqlite": "sqlite"}  # fmt: skip
"""Formats by file extension."""
_REPORTED = 1_000


@dataclass(frozen=True, slots=True)
class ExportForm:
    """The format and the layout of the files."""

    form: str
    """One of the values of `FORMATS`."""
    flatten: bool = False
    """Whether the members of `freeform` become columns."""
    split_runs: bool = False
    """Whether a new file begins at each reading with a smaller relative timestamp than the reading
    before, for example after a restart of the device."""

    def check(self, path: Path) -> None:
        """Check that the files of an export to `path` can be written.

        Raises:
            IotError: a file to write exists already, or pyarrow is missing for Parquet. With
                `split_runs`, any file `<name>-<number>` counts as a file to write.
        """
        if self.form == "parquet":
            pyarrow()
        if not self.split_runs:
            refuse_existing(path)
            return
        names = re.compile(re.escape(path.stem) + r"-\d{3,}" + re.escape(path.suffix))
        for other in sorted(path.parent.glob("*")):
            if names.fullmatch(other.name):
                refuse_existing(other)


class Exporter:
    """The export of one vault."""

    def __init__(
        self, pages: ServicePages, spool: ExportSpool, progress: Progress, password: str
    ) -> None:
        self._pages = pages
        self._spool = spool
        self._progress = progress
        self._password = password

    def check(self, path: Path, form: ExportForm) -> None:
        """Check that the files can be written. Raises like `ExportForm.check`.

        Check nothing if an earlier run was killed while it renamed the complete files: some of them
        may have their final names already.
        """
        if not self._spool.renames(repr(form)):
            form.check(path)

    def fetch(self, form: ExportForm) -> int:
        """Fetch the readings that the spool lacks. Return the number of readings in the spool.

        If an earlier run was killed while it renamed the complete files of this form, the spool is
        not changed. Otherwise, a complete spool is fetched again from its last page on.

        After an error, the spool keeps the fetched readings. The next run continues after them.

        Raises:
            IotError: the service refuses or is unavailable, the disk is full, or the readings in
                the spool were fetched with another password.
        """
        try:
            self._fetch(form)
        except CursorError as error:
            raise IotError(
                f"{self._spool.path} can't be continued: {error}; use the password of the "
                "interrupted export, or the new one if the password was changed since; if the "
                "vault was erased, delete the file"
            ) from None
        return len(self._spool)

    def _fetch(self, form: ExportForm) -> None:
        if self._spool.renames(repr(form)) and self._is_own():
            return
        with self._disk_errors():
            self._spool.reopen()
        for page in self._pages.pages(self._spool.cursor):
            with self._disk_errors():
                self._spool.append(page.readings, page.cursor)
            self._progress("fetching", len(self._spool), None)

    def write(self, path: Path, form: ExportForm) -> list[Path]:
        """Write the files, then delete the spool. Return the paths of the files.

        Raises:
            IotError: a file to write exists already, or the disk is full. The spool is kept.
        """
        with self._disk_errors():
            return self._write(path, form)

    def _write(self, path: Path, form: ExportForm) -> list[Path]:
        names = self._spool.renames(repr(form))
        if not names:
            names = self._write_unfinished(path, form)
            self._spool.save_renames(repr(form), names)
        for unfinished, final in names.items():
            if unfinished.exists():  # an earlier run may have renamed it
                refuse_existing(final)
                unfinished.replace(final)
        sync_folder(path.parent)
        self._spool.delete()
        return list(names.values())

    def _write_unfinished(self, path: Path, form: ExportForm) -> dict[Path, Path]:
        """Write the files under temporary names. Return the final name for each temporary name."""
        columns = Columns()
        if form.flatten:
            columns = flattened_columns(self._reported("looking for columns"))
        files = _Files(path, self._opener(form.form, columns), numbered=form.split_runs)
        previous: int | None = None
        try:
            for reading in self._reported("writing"):
                now = reading.relative_timestamp
                if form.split_runs and previous is not None and now < previous:
                    files.next()
                previous = now
                files.writer.write(reading)
            return files.finish()
        except BaseException:
            files.discard()
            raise

    def _is_own(self) -> bool:
        """Return whether the readings of a complete spool were fetched with this password.

        The spool holds no hash of its password, because a hash would help to guess the password. So
        the service checks the password: it refuses the spool's cursor with any other password
        (`CursorError`). A complete spool with a single page has no cursor. In this case, look for
        its readings in the vault.
        """
        if self._spool.cursor is not None:
            self._pages.check(self._spool.cursor)
            return True
        missing = set(map(astuple, self._spool.readings()))
        for page in self._pages.pages():
            missing.difference_update(map(astuple, page.readings))
            if not missing:
                return True
        return False

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            reason = getattr(error, "strerror", None) or error
            raise IotError(
                f"writing failed: {reason}; {self._spool.path} keeps what was fetched: run the "
                "export again to continue"
            ) from None

    def _reported(self, what: str) -> Iterator[Reading]:
        total = len(self._spool)
        for number, reading in enumerate(self._spool.readings()):
            if number % _REPORTED == 0:
                self._progress(what, number, total)
            yield reading

    def _opener(self, form: str, columns: Columns) -> OpenWriter:
        if form == "sqlite":
            return lambda path: LegacyWriter(path, self._password)
        return lambda path: _WRITERS[form](path, columns)


_WRITERS: dict[str, Callable[[Path, Columns], Writer]] = {
    "csv": CsvWriter,
    "ndjson": NdjsonWriter,
    "parquet": ParquetWriter,
}


class _Files:
    """The files of an export while they have temporary names."""

    def __init__(self, path: Path, open_writer: OpenWriter, *, numbered: bool) -> None:
        self._path = path
        self._open = open_writer
        self._numbered = numbered
        self._paths: dict[Path, Path] = {}
        """Final names by temporary names."""
        self.writer: Writer
        # Only this process uses such a name: it holds the lock of the export's target.
        for left in path.parent.glob(f"{escape(_unfinished(path).name)}*"):
            left.unlink()
        self.next()

    def next(self) -> None:
        """Complete the file that is open, if there is one, and begin the next file.

        Raises:
            IotError: a file with the final name exists already.
        """
        if self._paths:
            self.writer.close()
        path = self._path
        if self._numbered:
            path = path.with_stem(f"{path.stem}-{len(self._paths) + 1:03}")
        refuse_existing(path)
        unfinished = _unfinished(self._path, str(len(self._paths) + 1))
        self._paths[unfinished] = path
        # The readings are not encrypted, or only weakly: nobody else may read them.
        unfinished.touch(mode=0o600, exist_ok=False)
        self.writer = self._open(unfinished)

    def finish(self) -> dict[Path, Path]:
        """Complete the last file, and write all files to the disk. Return the final name for each
        temporary name.

        Raises:
            IotError: a file with a final name exists already.
        """
        self.writer.close()
        for unfinished, path in self._paths.items():
            refuse_existing(path)
            sync_file(unfinished)
        return self._paths

    def discard(self) -> None:
        """Delete all files under temporary names, after an error."""
        with suppress(OSError, ValueError, IotError, sqlite3.Error):
            self.writer.close()
        for unfinished in self._paths:
            unfinished.unlink(missing_ok=True)


def _unfinished(path: Path, number: str = "") -> Path:
    return path.with_name(f".{path.name}.unfinished-{number}")


def refuse_existing(path: Path) -> None:
    """Raise `IotError` if `path` exists or is a symbolic link, even a link to a missing file."""
    if path.is_symlink():
        raise IotError(f"{path} is a symbolic link: name the file that it points to")
    if os.path.lexists(path):
        raise IotError(f"{path} exists: choose another name, or delete it")
