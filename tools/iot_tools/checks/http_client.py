"""A client of the HTTP API that needs nothing but the standard library."""

import http.client
import json
import ssl
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import SplitResult, urlsplit

_REFUSED = {400, 413, 415}
_STALE = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError)


class NotDeliveredError(Exception):
    """The service didn't take the request now; `retry_after` tells seconds to wait, if it said.

    `status` is that of its answer, None when there was none.
    """

    def __init__(
        self, message: str, retry_after: float | None = None, status: int | None = None
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.status = status


class RefusedError(Exception):
    """The service will never take this request; the message says why."""


class ApiClient:
    """Speaks for one password, over one connection that is kept open."""

    def __init__(
        self,
        url: str,
        password: str,
        *,
        token: str = "",
        context: ssl.SSLContext | None = None,
        timeout: float = 10.0,
    ) -> None:
        """`context` says which certificates are trusted; left out, those of the system.

        `token` goes along as a bearer token, unless it is empty; it may be set anew at any time.
        """
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or not has_a_fit_port(parts):
            raise ValueError(f"not an http(s) URL: {url}")
        self.token = token
        self._password = password
        self._base = parts.path.rstrip("/")
        self._connection = (
            http.client.HTTPSConnection(parts.netloc, timeout=timeout, context=context)
            if parts.scheme == "https"
            else http.client.HTTPConnection(parts.netloc, timeout=timeout)
        )

    def ready(self) -> bool:
        """Whether the service says that it can do its work; leaves no connection open."""
        try:
            return self._exchange("GET", "/readyz", None, {})[0] == http.client.OK
        except NotDeliveredError:
            return False
        finally:
            self.close()

    def put(self, readings: Sequence[Mapping[str, Any]], key: str) -> None:
        """Send readings; on return they are the service's to keep.

        A repeated `key` names the same readings: sent again, they count once.

        Raises:
            NotDeliveredError: it isn't known that they were taken; send them again.
            RefusedError: they can't be taken.
        """
        rows = [{"data": {"db_password": self._password, **reading}} for reading in readings]
        self._checked("PUT", "/api/iot", rows, {"Idempotency-Key": key})

    def last(self, count: int) -> list[dict[str, Any]]:
        """The last `count` readings of the password."""
        return self._asked(f"last/{count}")

    def recent(self, seconds: int) -> list[dict[str, Any]]:
        """What the service received in the last `seconds`."""
        return self._asked(f"seconds/{seconds}")

    def between(self, low: int, high: int) -> list[dict[str, Any]]:
        """The readings whose relative time is from `low` to `high`."""
        return self._asked(f"{low}/{high}")

    def max_relative_time(self) -> int | None:
        """The greatest relative time of the password's readings; None when there are none."""
        greatest: int | None = self._asked("maxtime")[0]["max_relative_timestamp"]
        return greatest

    def close(self) -> None:
        """Close the connection; a later call opens it again."""
        self._connection.close()

    def _asked(self, path: str) -> list[dict[str, Any]]:
        question = {"data": {"db_password": self._password}}
        answer = self._checked("POST", f"/api/iot/{path}", question, {})
        try:
            data: list[dict[str, Any]] = json.loads(answer)["data"]
        except (ValueError, KeyError, TypeError):
            raise NotDeliveredError("the answer is not one of this service") from None
        return data

    def _checked(self, method: str, path: str, body: object, headers: dict[str, str]) -> bytes:
        status, answer, retry_after = self._exchange(method, path, body, headers)
        if status < http.client.MULTIPLE_CHOICES:
            return answer
        sentence = f"{status} {answer[:200].decode(errors='replace').strip()}"
        if status in _REFUSED or status < http.client.BAD_REQUEST:  # nobody follows a redirection
            raise RefusedError(sentence)
        raise NotDeliveredError(sentence, retry_after, status)

    def _exchange(
        self, method: str, path: str, body: object, headers: dict[str, str]
    ) -> tuple[int, bytes, float | None]:
        """Status, body and Retry-After of one request, tried twice if the connection was stale."""
        payload = None if body is None else json.dumps(body, separators=(",", ":"))
        everything = {"Content-Type": "application/json", **headers}
        if self.token:
            everything["Authorization"] = f"Bearer {self.token}"
        for attempt in (1, 2):
            try:
                self._connection.request(method, self._base + path, payload, everything)
                response = self._connection.getresponse()
                after = response.getheader("Retry-After", "")
                return response.status, response.read(), float(after) if after.isdigit() else None
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                if attempt == 2 or not isinstance(error, _STALE):
                    raise NotDeliveredError(f"{type(error).__name__}: {error}") from error
        raise AssertionError("unreachable")


def has_a_fit_port(parts: SplitResult) -> bool:
    """Whether the port is a number that a port can be, or none is given."""
    try:
        return parts.port != 0
    except ValueError:
        return False
