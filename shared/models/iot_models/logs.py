"""The log of a process: one event per line, as text for a terminal or as JSON for a collector.

An event is a sentence, and fields that a program can search: `_log.info("...", extra={...})`. All
libraries log through the same handler. docs/monitoring.md lists the fields.
"""

import json
import logging
import sys
import threading
import time
from collections.abc import Hashable
from types import TracebackType
from typing import TextIO

from .errors import SettingsError

TEXT, JSON = "text", "json"
_TEXT_FORM = "%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"
_NOT_FIELDS = frozenset({*vars(logging.makeLogRecord({})), "asctime", "message"})
"""The attributes that each log record has, besides the fields of its event."""
_MAX_PACED = 1000


def parse_format(text: str) -> str:
    """Check that `text` is a log format, and return it. Raises `SettingsError` if it is not."""
    if text not in {TEXT, JSON}:
        raise SettingsError("the log format must be text or json")
    return text


def printable(text: str) -> str:
    """Return text from a store with `?` for each character that could control a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


class _TextFormatter(logging.Formatter):
    """Formats an event as a line for a terminal: the sentence, then each field as `name=value`."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the line of an event, without its traceback."""
        fields = [
            f" {name}={_shown(value)}"
            for name, value in record.__dict__.items()
            if name not in _NOT_FIELDS and name != "traceback"
        ]
        frames = getattr(record, "traceback", "")
        return super().formatMessage(record) + "".join(fields) + (frames and f"\n{frames}")


def _shown(value: object) -> str:
    text = str(value)
    return text if text.isprintable() and " " not in text else json.dumps(text)


def formatter(form: str) -> logging.Formatter:
    """Return the formatter for `form`: `text` or `json`."""
    if form == JSON:
        # The import takes a sixth of the time of a short command, which logs text.
        from .json_log import JsonFormatter  # noqa: PLC0415

        return JsonFormatter()
    return _TextFormatter(_TEXT_FORM)


def handler(form: str, stream: TextIO | None = None) -> logging.Handler:
    """Return a handler that writes events to a stream; stderr by default."""
    made = logging.StreamHandler(stream)
    made.setFormatter(formatter(form))
    return made


def start(form: str, level: str, stream: TextIO | None = None) -> None:
    """Log all events of this process to one stream.

    With JSON, Python's warnings and uncaught errors become events too. Otherwise a log collector
    would treat each line of a traceback as a separate event.
    """
    logging.basicConfig(level=level, handlers=[handler(form, stream)], force=True)
    if form == JSON:
        log_uncaught()


def log_uncaught() -> None:
    """Log Python's warnings and uncaught errors as events."""
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


def _log_uncaught_in_thread(raised: threading.ExceptHookArgs) -> None:
    # `sys.exit` ends a thread silently, also when a signal handler calls it while the thread runs.
    if not issubclass(raised.exc_type, SystemExit):
        _log_uncaught(raised.exc_type, raised.exc_value, raised.exc_traceback)


def _log_uncaught(
    kind: type[BaseException], error: BaseException | None, traceback: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt) or error is None:
        sys.__excepthook__(kind, error or kind(), traceback)
        return
    name = threading.current_thread().name
    logging.getLogger("python").critical("uncaught error in the thread %s", name, exc_info=error)


def last_line(program: str, error: object, form: str) -> None:
    """Write to stderr why a program ends, even if its log is not set up yet."""
    if form != JSON:
        print(f"{program}: {error}", file=sys.stderr, flush=True)
        return
    record = logging.LogRecord(program, logging.CRITICAL, "", 0, str(error), None, None)
    handler(JSON).handle(record)


class EventLimit:
    """Limits how many events of each kind are logged, so that a client can't fill the log.

    The caller defines the kinds. For example, a kind of the request log is a combination of route,
    status, and whether the request was slow.
    """

    def __init__(self, events: int, seconds: float) -> None:
        """Allow `events` events of each kind in each period of `seconds` seconds."""
        self._events = events
        self._seconds = seconds
        self._kinds: dict[Hashable, tuple[float, int]] = {}
        """By kind: the end of the period, and the number of its events so far."""

    def admit(self, kind: Hashable) -> int | None:
        """Count an event of a kind. Return None if the event must not be logged.

        Otherwise, return how many events of this kind were not logged since the last logged one.
        """
        now = time.monotonic()
        until, count = self._kinds.get(kind, (0.0, 0))
        if now < until:
            self._kinds[kind] = until, count + 1
            return 0 if count < self._events else None
        if len(self._kinds) >= _MAX_PACED:
            self._kinds.clear()
        self._kinds[kind] = now + self._seconds, 1
        return max(0, count - self._events)
