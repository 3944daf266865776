"""The response to a request."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPMessage
from typing import Any

_MAX_RETRY_AFTER = 3600.0


@dataclass(frozen=True, slots=True)
class Response:
    """A complete HTTP response."""

    status: int
    headers: HTTPMessage
    """The names are case-insensitive."""
    body: bytes

    @property
    def ok(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300

    @property
    def retry_after(self) -> float | None:
        """Seconds of `Retry-After`, at most an hour; None if the header is missing or invalid."""
        value = self.headers.get("Retry-After", "").strip()
        if value.isascii() and value.isdigit():
            return min(float(value), _MAX_RETRY_AFTER)
        try:
            date = parsedate_to_datetime(value).astimezone(UTC)
        except (ValueError, OverflowError):
            return None
        seconds = (date - datetime.now(UTC)).total_seconds()
        return min(max(0.0, seconds), _MAX_RETRY_AFTER)

    def text(self, max_bytes: int | None = None) -> str:
        """Return the body, or its first bytes, as text. Invalid UTF-8 is replaced."""
        return self.body[:max_bytes].decode(errors="replace")

    def json(self) -> Any:
        """Return the body as JSON.

        Raises:
            ValueError: the body is not JSON.
        """
        try:
            return json.loads(self.body)
        except RecursionError:
            raise ValueError("the JSON of the response is nested too deeply") from None
