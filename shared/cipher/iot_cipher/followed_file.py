"""Files whose content is reloaded when they change, for example mounted Secrets."""

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
    """The parsed content of a file. A change is in use within about a second.

    A changed file that can't be read or parsed is ignored: the last valid content stays in use.
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
        """Read the file.

        `what` names the content in log lines. `variable` is the setting with the file's path, and
        names the file in errors.

        Raises:
            SettingsError: the file can't be read, or `parse` refuses its content.
        """
        self._path = path
        self._parse = parse
        self._what = what
        self._variable = variable
        self._clock = clock
        self._lock = threading.Lock()
        self.check_at = clock() + self.CHECK_SECONDS
        """When the file must be checked again."""
        self._logged_fault = ""
        # Take the stamp before the read: the next check then notices a change in between.
        self._stamp = self._stat()
        self.loaded = self._read_first()
        """The last valid content."""

    def _read_first(self) -> Content:
        text = read_text(self._path, self._variable)
        try:
            return self._parse(text)
        except SettingsError as error:
            raise SettingsError(f"{self._variable}: {error}") from None

    def current(self) -> Content:
        """Return the content. Check the file first if the last check is `CHECK_SECONDS` old."""
        if self._clock() >= self.check_at:
            with self._lock:
                self._check()
        return self.loaded

    def _check(self) -> None:
        self.check_at = self._clock() + self.CHECK_SECONDS
        try:
            stamp = self._stat()
            if stamp != self._stamp:
                self.loaded = self._parse(read_text(self._path, self._variable))
                self._stamp = stamp
                _log.info("the changed %s is in use", self._what)
            self._logged_fault = ""
        except SettingsError as error:
            if str(error) != self._logged_fault:  # log it once, not every second
                _log.warning("the changed %s is ignored: %s", self._what, error)
            self._logged_fault = str(error)

    def _stat(self) -> tuple[int, int, int]:
        try:
            status = self._path.stat()
        except OSError as error:
            raise SettingsError(f"{self._variable} can't be read: {error.strerror}") from None
        # Kubernetes updates a mounted Secret by changing a symbolic link: the inode changes.
        return status.st_mtime_ns, status.st_size, status.st_ino


def strict_json(text: str) -> Any:
    """Parse JSON. Refuse repeated names, and skip a leading byte order mark.

    Raises:
        ValueError, RecursionError: the text is not JSON, repeats a name, or is nested too deeply. A
            JSONDecodeError contains the text, so callers must catch it and must not log it.
    """
    return json.loads(text.removeprefix(BYTE_ORDER_MARK), object_pairs_hook=_unique_names)


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a member name of the JSON is repeated")
    return content
