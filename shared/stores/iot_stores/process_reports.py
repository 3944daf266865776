"""What each process reports about itself to Redis, every few seconds.

The thread that watches Redis sends the reports, so that they do not delay requests and drains.
"""

import logging
import os
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

from redis import Redis
from redis.exceptions import RedisError

from iot_cipher.writer_keys import KeySet
from iot_models.errors import UnavailableError
from iot_models.names import KeyNames

from .store_states import POSTGRES_UNAVAILABLE, report

REPORT_SECONDS = 3.0
MALFORMED = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""Errors from decoding a report that another program has written."""

_log = logging.getLogger(__name__)


class ProcessReport(ABC):
    """A report about this process, sent to Redis every few seconds."""

    consequence: str
    """The consequence that the log names if the report can't be sent."""

    def __init__(
        self,
        client: "Redis",
        names: KeyNames,
        service: str,
        keys: Callable[[], KeySet],
        *,
        require_ownership: Callable[[], None],
    ) -> None:
        """`service`: `api` or `writer`. `require_ownership` raises an error unless Redis belongs to
        this installation (`RedisWatch`)."""
        self._client = client
        self._names = names
        self._service = service
        self._keys = keys
        self._require_ours = require_ownership
        self._next = 0.0

    def report(self) -> None:
        """Send a report. Do nothing if the last attempt was less than `REPORT_SECONDS` ago.

        If the report can't be sent, log the error and drop the report: the next report has newer
        values.
        """
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + REPORT_SECONDS
        content = self._content(now)
        try:
            self._require_ours()
            self._send(content)
        except (RedisError, UnavailableError, *POSTGRES_UNAVAILABLE) as error:
            report(_log, self.consequence, error)

    @abstractmethod
    def _content(self, now: float) -> dict[str, object]:
        """Return what is reported. `now` is a moment of `time.monotonic`."""

    @abstractmethod
    def _send(self, content: dict[str, object]) -> None:
        """Send a report to Redis."""


def process_name() -> str:
    """Return the name of this process, `<host name>:<pid>`. It is unique within the service."""
    return f"{socket.gethostname()}:{os.getpid()}"
