"""The client: sends requests with retries, stores readings and reads them back."""

import itertools
import json as json_format
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from http import HTTPStatus
from types import TracebackType
from typing import Any, Literal, Self

from .arguments import checked_key, checked_retry, checked_stop, checked_text, checked_token
from .batches import MAX_READINGS, batch_body, compressed, created_text, encode_readings, in_batches
from .connections import ConnectionPool, Request, Stream, make_tls_context
from .errors import FOREIGN, ClientError, NoResponseError, RetryableError, TrustError, answer_of
from .following import Follower
from .live import STREAM_SECONDS, LiveFollower
from .readings import PAGE_SIZE, Readings, read_path, time_range
from .response import Response
from .retry import RetryPolicy

_MIN_GZIP_BYTES = 1024
_ONE_ATTEMPT = RetryPolicy(max_attempts=1)
_PASSWORD_REFUSED = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT})


class Client:
    """A client of one service. It sends and reads readings under one password. Thread-safe.

    Requests are retried while the service is unavailable, except requests that could do harm if
    they came twice: `change_password`, `erase_vault`, and a PUT without `Idempotency-Key`.
    Connections stay open between requests; `close`, or the end of a `with` block, closes them. The
    client follows no redirects and uses no proxies.
    """

    def __init__(  # noqa: PLR0913 -- options, all but three by name
        self,
        url: str,
        password: str | None = None,
        token: str | Callable[[], str] | None = None,
        *,
        retry: RetryPolicy | None = None,
        timeout: float = 10.0,
        connect_timeout: float | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        cert_file: str | os.PathLike[str] | None = None,
        key_file: str | os.PathLike[str] | None = None,
        tls_context: ssl.SSLContext | None = None,
        gzip: bool = False,
        keep_alive: bool = True,
    ) -> None:
        """Create a client. The first request opens a connection.

        Args:
            url: the URL of the service, such as `https://iot.example.org` or `http://host:5000/prefix`.
            password: the password under which readings are stored and read. Default: the empty
                password. A reading with a `db_password` is stored under that password instead.
            token: bearer token, or a function that returns it. The function is called before each
                attempt, so it may return a new token at any time. Empty: no token.
            retry: when to retry. Default: `RetryPolicy()`.
            timeout: longest time without a byte from the service, in seconds.
            connect_timeout: seconds for a connection and its TLS handshake. Default: `timeout`.
            ca_file: PEM file of the certificate authorities to trust. Default: those of the system.
            cert_file: PEM file of a client certificate, with which the service identifies this
                client instead of a token. The file is read once, at creation.
            key_file: PEM file of the certificate's private key. Default: `cert_file`.
            tls_context: used instead of one made from `ca_file`, `cert_file` and `key_file`.
            gzip: compress bodies of requests.
            keep_alive: keep connections open between requests.

        Raises:
            ValueError: `url`, a timeout or `token` is invalid. Or `key_file` is given without
                `cert_file`, or one of both with an http URL or with `tls_context`.
            TypeError: an argument has another type than declared.
            OSError: a file can't be read, or holds no valid certificate or key.
        """
        self._pool = ConnectionPool(
            url,
            timeout=timeout,
            connect_timeout=timeout if connect_timeout is None else connect_timeout,
            tls_context=make_tls_context(url, tls_context, ca_file, cert_file, key_file),
            keep_alive=keep_alive,
        )
        self._password = None if password is None else checked_text("password", password)
        self._token = token if callable(token) else checked_token("" if token is None else token)
        self._retry = checked_retry(retry or RetryPolicy())
        self._gzip = gzip
        self._headers = {} if keep_alive else {"Connection": "close"}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def connected(self) -> bool:
        """Whether the next request can use an open idle connection."""
        return self._pool.connected

    def close(self) -> None:
        """Close all idle connections. The client can still be used."""
        self._pool.close()

    def request(
        self,
        method: str,
        path: str,
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        json: object = None,
        repeatable: bool | None = None,
    ) -> Response:
        """Send a request, with retries. Return the response to the last attempt, with any status.

        Args:
            method: GET, PUT, ...
            path: path and query, below the URL of the client.
            body: the body of the request. A `str` is sent as UTF-8.
            headers: more headers. They replace the client's headers of the same names.
            json: a value to send as the body, in JSON, with the Content-Type of JSON.
            repeatable: whether the request may reach the service more than once. Default: yes,
                except a PUT without `Idempotency-Key`, which could store its readings twice.

        Raises:
            NoResponseError: the last attempt got no complete response.
            ValueError: the path, a header or the token is not valid in HTTP.
        """
        request = self._request(method, path, body, headers, json)
        if repeatable is None:
            repeatable = method != "PUT" or "idempotency-key" in map(str.lower, request.headers)
        policy = self._retry if repeatable else _ONE_ATTEMPT
        began = time.monotonic()
        sent = False
        for attempt in itertools.count(1):
            try:
                response = self._attempt(request, repeatable=repeatable)
            except NoResponseError as error:
                sent = error.sent = sent or error.sent
                pause = policy.pause(attempt, time.monotonic() - began, None)
                if pause is None or isinstance(error, TrustError):
                    raise
            else:
                sent = True  # even a request that was answered 503 may have stored readings
                if response.status not in policy.statuses:
                    return response
                pause = policy.pause(attempt, time.monotonic() - began, response.retry_after)
                if pause is None:
                    return response
            time.sleep(pause)
        raise AssertionError("unreachable")

    def put_readings(
        self, readings: Iterable[Mapping[str, Any]], *, idempotency_key: str | None = None
    ) -> Response:
        """Store readings. On return they are acknowledged: the service stores each exactly once.

        Args:
            readings: mappings with `relative_time`, `interrogator_time` and `freeform`. A reading
                may also have a `db_password`.
            idempotency_key: names these readings. Requests with the same key are stored once, so a
                caller that keeps readings can send them again after an error or a restart. The
                service rejects other readings under the same key. At most 255 printable ASCII
                characters. Default: a random key, which protects the retries of this call.

        Raises:
            RejectedError: the service will never accept these readings.
            RetryableError: the readings are not acknowledged; send them again with the same key.
                Also raised if another server, such as a proxy, answered with a 2xx status.
            ValueError: the key or a member's name is invalid, or JSON can't represent a value.
        """
        return self._put(list(encode_readings(readings)), checked_key(idempotency_key))

    def send(
        self,
        readings: Iterable[Mapping[str, Any]],
        *,
        batch_size: int = MAX_READINGS,
        idempotency_key: str | None = None,
    ) -> int:
        """Store any number of readings, in compressed batches. Return their number.

        On return all are acknowledged. The service stores each exactly once, and keeps the order of
        a password's readings. One batch at a time is in memory, so `readings` may be a generator of
        any length. An `Outbox` also keeps readings while the service is unavailable.

        Args:
            readings: as for `put_readings`.
            batch_size: readings of a request, from 1 to 100,000.
            idempotency_key: at most 240 characters. Batch n has the key `<idempotency_key>-<n>`.
                After an error, the same call with the same batch size, within 24 hours, stores only
                the missing readings. Default: a random key, which protects this call's retries.

        Raises:
            RejectedError: the service will never accept a batch. The earlier batches are stored;
                `acknowledged` of the error is the number of their readings.
            RetryableError: a batch is not acknowledged. `acknowledged`: as for `RejectedError`.
            ValueError: as for `put_readings`. The earlier batches are stored.
        """
        key = checked_key(idempotency_key, longest=240)
        acknowledged = 0
        batches = in_batches(encode_readings(readings), batch_size, self._password)
        for number, batch in enumerate(batches):
            try:
                self.send_batch(batch, idempotency_key=f"{key}-{number}")
            except ClientError as error:
                error.acknowledged = acknowledged
                raise
            acknowledged += len(batch)
        return acknowledged

    def send_batch(
        self, rows: Sequence[str], *, idempotency_key: str, retry: bool = True
    ) -> Response:
        """Send readings, given as JSON texts, in one PUT. Without `retry`, make one attempt.

        Raises the errors of `put_readings`.
        """
        return self._put(rows, idempotency_key, compress=True, retry=retry)

    def _put(
        self, rows: Sequence[str], key: str, *, compress: bool = False, retry: bool = True
    ) -> Response:
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        body = batch_body(rows, self._password)
        if compress and len(body) >= _MIN_GZIP_BYTES:
            body = compressed(body)
            headers["Content-Encoding"] = "gzip"
        response = self.request("PUT", "/api/iot", body, headers, repeatable=retry)
        answer_of(response, "success", created_text(len(rows)))
        return response

    def read(
        self,
        *,
        last: int | None = None,
        seconds: int | None = None,
        start: int | None = None,
        end: int | None = None,
    ) -> list[dict[str, Any]]:
        """Return all readings of the password, or a part, ordered by interrogator timestamp.

        Args:
            last: return only this many readings: those with the greatest interrogator timestamps.
            seconds: return only readings received in the last `seconds` seconds.
            start: return only readings with at least this relative timestamp.
            end: return only readings with at most this relative timestamp; needs `start`.

        Raises:
            RejectedError: the service will never accept this request.
            RetryableError: the service is unavailable, or the response is not from iot-sensor.
            ValueError: more than one of `last`, `seconds` and `start`, or `end` without `start`.
        """
        return self._data(read_path(last=last, seconds=seconds, start=start, end=end))

    def readings(  # noqa: PLR0913 -- options, all by name
        self,
        *,
        last: int | None = None,
        seconds: int | None = None,
        start: int | None = None,
        end: int | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        by: Literal["received", "interrogator"] = "received",
        order: Literal["asc", "desc"] = "asc",
        page_size: int = PAGE_SIZE,
    ) -> Readings:
        """Return a query for any number of readings; `Readings` says how to get its result.

        `for reading in client.readings()` reads one page at a time.

        Args:
            last, seconds, start, end: as for `read`.
            since: return only readings from this time on. The time needs a time zone.
            until: return only readings before this time. The time needs a time zone.
            by: what `since` and `until` are compared with: the time of receipt, or the interrogator
                timestamp as microseconds since 1970.
            order: `desc` for the last reading first.
            page_size: readings of a page.

        Raises:
            ValueError: as for `read`, or a time has no time zone.
            TypeError: a time is not a `datetime`.
        """
        path = read_path(last=last, seconds=seconds, start=start, end=end)
        options = {"order": order, **time_range(since, until, by)}
        return Readings(self, path, {"limit": page_size, **options})

    def follow(
        self,
        *,
        interval: float = 1.0,
        overlap: float = 30.0,
        stop: threading.Event | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Return an iterator over new readings: those received from the first call of `next` on.

        Each reading comes exactly once, in the order of ids, even if it is stored late. The client
        uses a live stream, or polls if the service has no free one. Readings stored up to 2 s
        before the first call may come, too. So may readings received up to `overlap` seconds before
        the call, if they are stored after the stream or the first poll began. Imported readings,
        readings of held entries or dead letters, and damaged readings do not come. Other readings
        received at about the time of damaged ones may be missing, too, or not in order; the log
        names the time. The client reads in pages what the stream leaves out: readings stored before
        the stream opened, and readings that a slow client missed. If they are more than one page
        (10,000), they are not in the order of ids.

        Args:
            interval: seconds until a lost connection is opened again, and between two polls.
            overlap: seconds before the newest known reading that a poll reads again, to find late
                readings. Must exceed the clock skew.
            stop: ends the iterator when it is set.

        Raises:
            TypeError, ValueError: an argument is invalid.
            The errors of `read`, if the service refuses the request, or if it is unavailable at the
            beginning. During a later outage, the iterator waits, and logs the reason. After an
            error, a new call of `follow` leaves out the readings stored in between.
        """
        polling = Follower(self, interval, overlap, checked_stop(stop))
        for rows in LiveFollower(self, polling, interval, self._retry, stop).run():
            yield from rows

    def max_relative_time(self) -> int | None:
        """Return the greatest relative timestamp of the password's readings; None if it has none.

        Raises the errors of `read`.
        """
        data = self._data("/api/iot/maxtime")
        try:
            greatest: int | None = data[0]["max_relative_timestamp"]
        except (IndexError, KeyError, TypeError):
            raise RetryableError(FOREIGN) from None
        return greatest

    def change_password(self, new_password: str) -> None:
        """Change the password. The readings stay. This client uses the new password from now on.

        The request is sent once. If it gets no response, the password may have been changed: read
        with the new password to find out.

        Raises:
            RejectedError: the password is unknown, the new one is in use, or both are the same.
            RetryableError: the password was not changed, or it is not known whether it was.
        """
        new = checked_text("new_password", new_password)
        body = {"data": {"db_password": self._password or "", "new_password": new}}
        response = self.request("POST", "/api/vault/password", json=body, repeatable=False)
        answer_of(response, "changed", True, rejected=_PASSWORD_REFUSED)
        self._password = new_password

    def erase_vault(self) -> None:
        """Erase the vault of the password, with all its readings, for good.

        The request is sent once. If it gets no response, the vault may be erased: read to find out.

        Raises:
            RejectedError: the password is unknown.
            RetryableError: the vault was not erased, or it is not known whether it was.
        """
        self._erase("/api/vault", True, repeatable=False)

    def erase_readings(self, start: int, end: int) -> int:
        """Erase the readings with a relative timestamp from `start` to `end`, both included.

        All these readings that were acknowledged before the call are erased, even if they are not
        stored yet. The request is retried, because erasing twice does no harm.

        Returns:
            The number of readings that the last attempt erased. Earlier attempts may have erased
            others.

        Raises:
            RejectedError: the password is unknown.
            RetryableError: some of the readings may be erased; repeat the call.
        """
        return int(self._erase(f"/api/iot/{start}/{end}", int, repeatable=True))

    def _erase(self, path: str, expected: object, *, repeatable: bool) -> Any:
        body = {"data": {"db_password": self._password or ""}}
        response = self.request("DELETE", path, json=body, repeatable=repeatable)
        return answer_of(response, "erased", expected, rejected=_PASSWORD_REFUSED)

    def is_ready(self) -> bool:
        """Return whether the service accepts readings now; False if it does not answer."""
        request = self._request("GET", "/readyz", None, {"Connection": "close"}, None)
        try:
            return bool(answer_of(self._attempt(request, repeatable=True), "status", str))
        except ClientError:
            return False

    @property
    def credentials(self) -> dict[str, str]:
        """`{"db_password": <password>}`, for the `data` of a body; `{}` without a password."""
        return {} if self._password is None else {"db_password": self._password}

    def _data(self, path: str) -> list[dict[str, Any]]:
        response = self.request("POST", path, json={"data": self.credentials})
        data: list[dict[str, Any]] = answer_of(response, "data", list)
        return data

    def _request(
        self,
        method: str,
        path: str,
        body: bytes | str | None,
        headers: Mapping[str, str] | None,
        json: object,
    ) -> Request:
        given = dict(headers or {})
        names = {name.lower() for name in given}
        own = dict(self._headers)
        if json is not None:
            body = json_format.dumps(json, separators=(",", ":"))
            own["Content-Type"] = "application/json"
        if isinstance(body, str):
            body = body.encode()
        compress = self._gzip and "content-encoding" not in names
        if compress and body is not None and len(body) >= _MIN_GZIP_BYTES:
            body = compressed(body)
            own["Content-Encoding"] = "gzip"
        own = {name: value for name, value in own.items() if name.lower() not in names}
        return Request(method, path, body, own | given)

    def open_stream(self, path: str, json: object, headers: Mapping[str, str]) -> Stream:
        """Send a POST, without retries. Return its response, to be read while it arrives."""
        request = self._with_token(self._request("POST", path, None, headers, json))
        return self._pool.open_stream(request, STREAM_SECONDS)

    def _attempt(self, request: Request, *, repeatable: bool) -> Response:
        return self._pool.send(self._with_token(request), repeatable=repeatable)

    def _with_token(self, request: Request) -> Request:
        token = checked_token((self._token() if callable(self._token) else self._token) or "")
        headers = dict(request.headers)
        if token and "authorization" not in map(str.lower, headers):
            headers["Authorization"] = f"Bearer {token}"
        return replace(request, headers=headers)
