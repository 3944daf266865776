"""Errors of requests and outboxes."""

from http import HTTPStatus
from typing import Any

from .response import Response

_PERMANENT = frozenset(
    {
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
    }
)
FOREIGN = "the response is not from iot-sensor: check the URL, and the proxies on the way"
_QUOTED_BYTES = 200


class ClientError(Exception):
    """A request that did not succeed."""

    def __init__(self, message: str, response: Response | None = None) -> None:
        super().__init__(message)
        self.response = response
        self.acknowledged = 0
        """Number of readings that `Client.send` had stored when it raised this error."""

    @property
    def status(self) -> int | None:
        """Status of the response; None if the request got no response."""
        return None if self.response is None else self.response.status

    @property
    def reason(self) -> str:
        """Why the request failed, in the words of the service if it gave any."""
        return str(json_members(self.response).get("error", self))

    @property
    def code(self) -> str:
        """The error code of the service, such as `damaged`; "" if the service gave none."""
        code = json_members(self.response).get("code")
        return code if isinstance(code, str) else ""

    @property
    def retry_after(self) -> float | None:
        """Seconds to wait before the next attempt, as in `Response.retry_after`."""
        return None if self.response is None else self.response.retry_after


class RejectedError(ClientError):
    """A request that the service will never accept. Do not send it again."""


class RetryableError(ClientError):
    """A request that may succeed later, for example when the backlog has room again."""


class NoResponseError(RetryableError, OSError):
    """A request without a complete response. If `sent` is True, the service may have processed the
    request.

    This error is also an `OSError`, like the errors of sockets and of `urllib`.
    """

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent
        """False if no connection could be opened, or the service refused the client certificate, so
        the service has not got the request."""


class TrustError(NoResponseError):
    """A certificate of the service that is not trusted, or not valid now.

    A `Client` does not retry, because somebody must first correct `ca_file`, the certificate or a
    clock. An `Outbox`, and a `follow` that was connected before, wait for the correction.
    """


class OutboxError(Exception):
    """An outbox that can't be used: its file fails, it is closed, or another process opened it.

    If `send` raises this error, the outbox holds none of the readings of that call.
    """


class OutboxInUseError(OutboxError):
    """An outbox whose file is open in another outbox, in this process or in another one."""


class OutboxFullError(OutboxError):
    """An outbox without room: `max_bytes` is reached, or its disk is full.

    Call `send` again later.
    """


def json_members(response: Response | None) -> dict[str, Any]:
    """Return the JSON object in a response; an empty object if the response has no object."""
    try:
        members = {} if response is None else response.json()
    except ValueError:
        return {}
    return members if isinstance(members, dict) else {}


def raise_for_status(response: Response, *, rejected: frozenset[HTTPStatus] = frozenset()) -> None:
    """Raise an error unless the status of a response is 2xx.

    Raises:
        RejectedError: the service will never accept the request. The status is 400, 413, 415, 422,
            one of `rejected`, or a redirect (redirects are not followed).
        RetryableError: any other status. This includes 401, 403 and 404: a device should keep its
            readings, because a token, its scopes or an ingress may be corrected.
    """
    if response.ok:
        return
    members = json_members(response)
    is_foreign = not isinstance(members.get("error"), str) or "code" not in members
    quoted = response.text(_QUOTED_BYTES).strip() if is_foreign else members["error"]
    message = f"{response.status} {quoted}"
    if response.status in _PERMANENT | rejected or response.status < HTTPStatus.BAD_REQUEST:
        raise RejectedError(message, response)
    raise RetryableError(message, response)


def answer_of(
    response: Response,
    member: str,
    expected: object,
    *,
    rejected: frozenset[HTTPStatus] = frozenset(),
) -> Any:
    """Return the value of `member` in the JSON body of a successful response.

    `expected` is the type of the value, or the value itself.

    Raises the errors of `raise_for_status`. Raises `RetryableError` if the body lacks the member,
    or has another value: the response comes from a proxy, a login page or another server.
    """
    raise_for_status(response, rejected=rejected)
    value = json_members(response).get(member)
    if not (isinstance(value, expected) if isinstance(expected, type) else value == expected):
        raise RetryableError(FOREIGN, response)
    return value
