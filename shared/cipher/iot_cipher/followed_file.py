"""A file that is followed: what it holds is in use a second after it changed."""

import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

from iot_models.errors import SettingsError
from iot_models.text_files import BYTE_ORDER_MARK, read_text

Content = TypeVar("Content")

_log = logging.getLogger(__name__)


class FollowedFile(Generic[Content]):
    """What a file holds, parsed; a mounted Secret that changes takes effect in a second.

    A file that becomes unreadable or wrong later is ignored, and what was read last stays in use.
    """

    CHECK_SECONDS = 1.0

    def __init__(
        self,
        path: Path,
        parse: Callable[[str], Content],
        *,
        what: str,
        variable: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`what` is in the file that `variable` names, for messages.

        Raises:
            SettingsError: the file can't be read, or `parse` says that it is wrong.
        """
        self._path = path
        self._parse = parse
        self._what = what
        self._variable = variable
        self._clock = clock
        self._lock = threading.Lock()
        self._checked = clock()
        self._complaint = ""
        self._stamp = self._stat()
        self._content = self._first()

    def _first(self) -> Content:
        text = read_text(self._path, self._variable)
        try:
            return self._parse(text)
        except SettingsError as error:
            raise SettingsError(f"{self._variable}: {error}") from None

    def current(self) -> Content:
        """What stands in the file."""
        if self._clock() - self._checked >= self.CHECK_SECONDS:
            with self._lock:
                self._check()
        return self._content

    def _check(self) -> None:
        self._checked = self._clock()
        try:
            stamp = self._stat()
            if stamp != self._stamp:
                self._content = self._parse(read_text(self._path, self._variable))
                self._stamp = stamp
                _log.info("the changed %s is in use", self._what)
            self._complaint = ""
        except SettingsError as error:
            if str(error) != self._complaint:  # said once, not every second
                _log.warning("the changed %s is ignored: %s", self._what, error)
            self._complaint = str(error)

    def _stat(self) -> tuple[int, int, int]:
        try:
            status = self._path.stat()
        except OSError as error:
            raise SettingsError(f"{self._variable} can't be read: {error.strerror}") from None
        return status.st_mtime_ns, status.st_size, status.st_ino


def strict_json(text: str) -> Any:
    """JSON in which no name stands twice; a byte order mark before it is passed over.

    Raises:
        ValueError, RecursionError: it is not. The error holds the text: let it not get out.
    """
    return json.loads(text.removeprefix(BYTE_ORDER_MARK), object_pairs_hook=_without_repeats)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a name stands twice")
    return content
