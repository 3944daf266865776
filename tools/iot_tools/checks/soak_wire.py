"""HTTP without forgiveness: a request that was sent is answered, or it failed."""

import http.client
import json
import select
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from .http_client import has_a_fit_port


class NoAnswerError(Exception):
    """A request was sent, or its connection asked for, and no answer came."""


@dataclass(frozen=True)
class Answer:
    """An answer, whatever it says."""

    status: int
    body: bytes
    retry_after: float | None

    def json(self) -> Any:
        """Its body; None when that isn't JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


class Wire:
    """One connection, kept open or not.

    A connection that the server closed while nothing was asked on it is opened again, as every
    client does. Nothing else is done twice: who kept it open longer than the server is told so.
    """

    def __init__(self, url: str, *, token: str, keep: bool, timeout: float) -> None:
        """Raises `ValueError` when the URL is none."""
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname or not has_a_fit_port(parts):
            raise ValueError(f"not an http URL: {url}")
        self._base = parts.path.rstrip("/")
        self._keep = keep
        self._headers = {"Content-Type": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        if not keep:
            self._headers["Connection"] = "close"
        self._connection = http.client.HTTPConnection(parts.netloc, timeout=timeout)

    def ask(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request and its answer. Raises `NoAnswerError`."""
        payload = None if body is None else json.dumps(body, separators=(",", ":"))
        self._drop_if_ended()
        try:
            self._connection.request(
                method, self._base + path, payload, {**self._headers, **(headers or {})}
            )
            response = self._connection.getresponse()
            after = response.getheader("Retry-After", "")
            return Answer(
                response.status, response.read(), float(after) if after.isdigit() else None
            )
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise NoAnswerError(f"{type(error).__name__}: {error}") from error

    def close(self) -> None:
        """Close the connection; the next request opens it again."""
        self._connection.close()

    def _drop_if_ended(self) -> None:
        """What can be read while nothing was asked is the end of the connection."""
        held = self._connection.sock
        if held is not None and select.select([held], [], [], 0)[0]:
            self.close()
