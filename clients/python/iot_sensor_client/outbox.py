"""The outbox: readings wait on the disk until the service has acknowledged them."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from .arguments import checked_choice, checked_count, checked_duration, checked_retry
from .batches import MAX_READINGS, added_bytes, encode_reading, encode_readings
from .client import Client
from .errors import NoResponseError, OutboxError, RejectedError, json_members
from .outbox_file import Batch, OutboxFile
from .outbox_rejected import RejectedReading
from .retry import RetryPolicy

MAX_BYTES = 256 * 1024 * 1024
KEY_SECONDS = 23 * 3600
"""How long a batch may be repeated under its key, in seconds. This is less than the 24 hours for
which the service remembers keys."""
_TOO_LARGE = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
_BAD_READINGS = frozenset({"invalid_request", "too_large"})
"""Error codes of iot-sensor that blame the readings of a request."""
_UNKNOWN = "it is not known whether the service has stored the reading"
_CLOSED = "the outbox is closed"
_RETRY = RetryPolicy(max_pause_seconds=30.0)
_log = logging.getLogger("iot_sensor_client")


@dataclass(frozen=True, slots=True)
class OutboxStatistics:
    """The state of an outbox at one moment."""

    state: Literal["idle", "sending", "waiting"]
    """`waiting`: an attempt failed, and the outbox pauses before the next attempt."""
    waiting: int
    """Readings that are not acknowledged."""
    rejected: int
    """Readings that were set aside."""
    bytes: int
    """Bytes of the waiting and the rejected readings, and of the reasons. At `max_bytes` the outbox
    is full."""
    max_bytes: int
    acknowledged: int
    """Readings that were acknowledged since the outbox was opened."""
    set_aside: int
    """Readings that were set aside since the outbox was opened."""
    set_aside_reason: str | None
    """Why the last readings were set aside; None if `set_aside` is 0."""
    last_error: str | None
    """Why the last attempt failed, None after a success."""


class Outbox:
    """Sends readings, and keeps them on the disk until the service has acknowledged them.

    `send` returns when the readings are on the disk, whether or not the service is available. A
    thread sends them in their order, and continues after any error. Each accepted reading is stored
    exactly once by the service, or is set aside with a reason, even if the process is killed or the
    power fails.

    Readings that the service refuses for good are set aside, one by one; the other readings of
    their batch are sent. See `rejected`, `resend_rejected` and `discard_rejected`.

    A whole batch is set aside in three cases:

    - The result of an attempt is unknown, and 23 hours later it is still not known whether the
      service has stored the batch. After 24 hours, the service forgets the batch's Idempotency-Key,
      and could store the batch twice. With `in_doubt="send"`, such a batch is sent again.
    - The result of an attempt is unknown, and a later attempt is refused as too large (413). Parts
      of the batch would have keys of their own, so the service could store them twice. With
      `in_doubt="send"`, the parts are sent.
    - The service has other readings under the Idempotency-Key of the batch
      (`idempotency_key_reused`). This happens if the file was copied, and both copies have sent.
      Some readings of the batch may be stored, so no reading is sent again.

    The file holds readings unencrypted, with permissions for its owner alone. It holds no password
    and no token: these stay in the client. Use one file for each password.

    An outbox belongs to the process that opened it. In a forked child, every call raises
    `OutboxError`, except `close`, which does nothing; the parent's outbox is not affected.
    """

    def __init__(  # noqa: PLR0913 -- options, all by name
        self,
        client: Client,
        path: str | os.PathLike[str],
        *,
        max_bytes: int = MAX_BYTES,
        batch_size: int = MAX_READINGS,
        linger: float = 0.1,
        interval: float = 2.0,
        retry: RetryPolicy = _RETRY,
        in_doubt: Literal["set_aside", "send"] = "set_aside",
    ) -> None:
        """Open or create the file, and begin to send its readings.

        Args:
            client: sends the readings, under its password. It stays open when the outbox is closed.
            path: the path of the file, on a local disk. SQLite adds a file `<path>-wal`.
            max_bytes: limit for all readings in the file: the bytes of their texts, 32 bytes for
                each reading, and the reasons of rejected readings. The file may be some MiB larger.
            batch_size: readings of a request.
            linger: seconds that a new reading waits, so that later ones can join its batch.
            interval: a batch that later readings can join is sent at the earliest this many seconds
                after the start of the last request. `flush` and `close` do not wait.
                The service remembers each request for 24 hours, by default 50,000 of a client.
            retry: the pauses between attempts. Its limits of attempts and time do not apply.
            in_doubt: what to do with a batch that the service may have stored, if the service may
                have forgotten the batch's Idempotency-Key, or refuses the batch as too large.

        Raises:
            OutboxInUseError: the file is still in use after a second.
            OutboxError: the file can't be opened, or is not an outbox.
            TypeError, ValueError: an option is invalid.
        """
        self._client = client
        self._max_bytes = checked_count("max_bytes", max_bytes)
        self._linger = checked_duration("linger", linger)
        self._interval = checked_duration("interval", interval)
        self._retry = checked_retry(retry)
        self._in_doubt = checked_choice("in_doubt", in_doubt, ("set_aside", "send"))
        self._path = Path(path)
        self._process = os.getpid()
        added = added_bytes(client.credentials.get("db_password"))
        batch_size = checked_count("batch_size", batch_size)
        self._file = OutboxFile(self._path, max_bytes, batch_size, added)
        self._changed = threading.Condition()
        self._closed = self._closing = False
        self._flushing = 0
        self._state: Literal["idle", "sending", "waiting"] = "idle"
        self._acknowledged = self._aside = 0
        self._aside_reason: str | None = None
        self._last_error: str | None = None
        self._done = 0
        """All readings up to this id are acknowledged or set aside."""
        self._next_request = 0.0
        """Earliest time (`time.monotonic`) of a request with a batch that later readings can
        join."""
        self._first_attempt = (0, 0.0)
        """Id of the oldest batch, and the time (`time.monotonic`) of this process's first attempt
        that may have an unknown result."""
        self._thread = threading.Thread(target=self._run, name=f"outbox {path}", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def send(self, readings: Mapping[str, Any] | Iterable[Mapping[str, Any]]) -> None:
        """Store one reading, or several together, in the outbox.

        On return they are on the disk. Each call waits for the disk once, so several readings in
        one call cost little more than one.

        Raises:
            OutboxFullError: the limit is reached, or the disk is full. Nothing was stored.
            OutboxError: the file can't be written, or the outbox is closed. Nothing was stored.
            ValueError: a reading can't be written as JSON, or has a password. Nothing was stored.
        """
        several = [readings] if isinstance(readings, Mapping) else readings
        rows = list(encode_readings(several, _encode))
        if not rows:
            return
        with self._opened():
            try:
                self._file.append(rows)
            finally:
                self._changed.notify_all()  # an interrupted call may have stored them

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all readings that `send` has accepted so far are acknowledged or set aside.

        Returns:
            False if that takes longer than `timeout` seconds. The readings stay in the outbox.

        Raises:
            OutboxError: the outbox is closed, or another thread closes it meanwhile.
        """
        with self._opened():
            last = self._file.last_id()
            self._flushing += 1
            self._changed.notify_all()
            try:
                self._changed.wait_for(lambda: self._closing or self._is_done(last), timeout)
                done = self._is_done(last)
                if self._closing and not done:
                    raise OutboxError(_CLOSED)
                return done
            finally:
                self._flushing -= 1

    def close(self, timeout: float = 5.0) -> None:
        """Flush for up to `timeout` seconds, then stop. The remaining readings wait until the file
        is opened again.

        A request under way is completed, even if this takes longer than `timeout`.
        """
        if os.getpid() != self._process:
            return
        with self._changed:
            if self._closed:
                return
            self._closed = True
        try:
            if timeout > 0:
                self.flush(timeout)
        finally:
            with self._changed:
                self._closing = True
                self._changed.notify_all()
            self._thread.join()
            self._file.close()

    def statistics(self) -> OutboxStatistics:
        """Return the state of the outbox. After `close`, it is the last state."""
        self._check_process()
        with self._changed:
            counts = self._file.counts()
            return OutboxStatistics(
                self._state,
                counts.waiting,
                counts.rejected,
                counts.bytes,
                self._max_bytes,
                self._acknowledged,
                self._aside,
                self._aside_reason,
                self._last_error,
            )

    def rejected(self) -> list[RejectedReading]:
        """Return the readings that were set aside, oldest first."""
        with self._opened():
            return self._file.rejected()

    def resend_rejected(self, rejected: Iterable[RejectedReading]) -> int:
        """Send rejected readings again, under a new Idempotency-Key. Return their number.

        Readings that were resent or discarded before are neither sent nor counted. After an error,
        such as `OutboxFullError`, some readings may be resent: call this again with all of them.
        """
        return self._take_back(rejected, send=True)

    def discard_rejected(self, rejected: Iterable[RejectedReading]) -> int:
        """Delete rejected readings. Return their number.

        Readings that were resent or discarded before are not counted. After an error, some readings
        may be deleted: call this again with all of them.
        """
        return self._take_back(rejected, send=False)

    def _take_back(self, rejected: Iterable[RejectedReading], *, send: bool) -> int:
        with self._opened():
            try:
                return self._file.take_back([each.id for each in rejected], send=send)
            finally:
                self._changed.notify_all()  # an interrupted call may have resent some

    @contextmanager
    def _opened(self) -> Iterator[None]:
        """Lock the outbox. Raise `OutboxError` if it is closed, or another process opened it."""
        self._check_process()
        with self._changed:
            if self._closing:
                raise OutboxError(_CLOSED)
            yield

    def _check_process(self) -> None:
        # A fork copies what SQLite knows of its locks, but not the locks: the child would overwrite
        # what the parent writes. Check this before taking a lock, which a thread of the parent may
        # have held at the fork.
        if os.getpid() != self._process:
            raise OutboxError(
                f"the outbox {self._path} was opened in process {self._process}: a forked process"
                " needs an outbox of its own, in another file"
            )

    def _is_done(self, reading: int) -> bool:
        return self._done >= reading or not self._file.counts().waiting

    def _run(self) -> None:
        """Send batches until the outbox is closed. Runs in the thread; continues after errors."""
        failures = 0
        finish: Callable[[], None] | None = None
        while True:
            try:
                if finish is None:
                    batch = self._next_batch()
                    if batch is None:
                        return
                    finish = self._attempt(batch)
                # Together: while no reading waits, statistics must show no earlier state or error.
                with self._changed:
                    finish()
                    self._note("idle", None)
            except Exception as error:  # noqa: BLE001 -- the file, the network and the token may recover
                failures += 1
                self._note("waiting", f"{type(error).__name__}: {error}")
                if not self._pause(failures, getattr(error, "retry_after", None)):
                    return
            else:
                finish, failures = None, 0

    def _next_batch(self) -> Batch | None:
        """Return the oldest batch; None when the outbox is closed.

        If no reading waits, wait for one, and then for `linger` seconds. If later readings may join
        the batch, wait until `interval` seconds after the start of the last request.
        """
        with self._changed:
            while not self._closing:
                if self._file.counts().waiting:
                    pause = self._next_request - time.monotonic()
                    if pause > 0 and self._file.grows() and not self._flushing:
                        self._changed.wait(pause)
                        continue
                    batch = self._file.take()
                    if batch is not None:
                        self._next_request = time.monotonic() + self._interval
                        self._state = "sending"
                        return batch
                self._changed.wait()
                if self._linger and not self._flushing:
                    self._changed.wait_for(lambda: self._closing or self._flushing, self._linger)
            return None

    def _attempt(self, batch: Batch) -> Callable[[], None]:
        """Send a batch once. Return a function that records the result in the file.

        The result: the batch was acknowledged, must be set aside, or must be split. A batch in
        doubt is set aside without an attempt (see `in_doubt`). If the returned function raises an
        error, call it again, and do not send the batch again. If this method raises an error, send
        the batch again.
        """
        if batch.tried is None or self._first_attempt[0] != batch.id:
            self._first_attempt = (batch.id, time.monotonic())
        if self._is_in_doubt(batch) and self._may_be_forgotten(batch):
            return lambda: self._set_aside(batch, f"{_UNKNOWN}; its Idempotency-Key has expired")
        try:
            self._client.send_batch(batch.rows, idempotency_key=batch.key, retry=False)
        except RejectedError as error:
            return self._refused(batch, error)
        except Exception as error:
            if batch.tried is None and _may_be_stored(error):
                self._file.note_attempt(batch)
            raise
        return lambda: self._acknowledge(batch)

    def _is_in_doubt(self, batch: Batch) -> bool:
        return self._in_doubt != "send" and batch.tried is not None

    def _may_be_forgotten(self, batch: Batch) -> bool:
        """Return whether the service may have forgotten the key of a batch in doubt."""
        # The system's clock also counts while the process does not run, but it can be set back. A
        # time before the attempt proves nothing about the age of the attempt.
        age = batch.taken - (batch.tried or 0.0)
        return age < 0 or max(age, time.monotonic() - self._first_attempt[1]) > KEY_SECONDS

    def _refused(self, batch: Batch, error: RejectedError) -> Callable[[], None]:
        """Return a function that sets a refused batch aside, or splits it to find bad readings.

        Raise `error` if the readings are not the cause, for example if the URL redirects, if a
        proxy refused the request, or if the password is invalid. The batch is then sent again.
        """
        code = error.code
        if json_members(error.response).get("field") == "db_password":
            raise error  # the client's password: no reading of an outbox has its own
        if code == "idempotency_key_reused" or (
            len(batch.rows) == 1 and (code in _BAD_READINGS or error.status == _TOO_LARGE)
        ):
            return lambda: self._set_aside(batch, str(error))
        if error.status == _TOO_LARGE and self._is_in_doubt(batch):
            # The service may have stored the earlier attempt: limits of size can change, and this
            # refusal may come from a proxy.
            return lambda: self._set_aside(batch, f"{error}; {_UNKNOWN}")
        if code in _BAD_READINGS or error.status == _TOO_LARGE:
            return lambda: self._file.split(batch)
        raise error

    def _acknowledge(self, batch: Batch) -> None:
        with self._changed:
            self._file.remove(batch)
            self._acknowledged += len(batch.rows)
            self._done = batch.last
        _log.debug("%d reading(s) acknowledged", len(batch.rows))

    def _set_aside(self, batch: Batch, reason: str) -> None:
        with self._changed:
            self._file.set_aside(batch, reason)
            self._aside += len(batch.rows)
            self._aside_reason = reason
            self._done = batch.last
        _log.warning("%d reading(s) set aside in the outbox: %s", len(batch.rows), reason)

    def _note(self, state: Literal["idle", "waiting"], error: str | None) -> None:
        with self._changed:
            if error is not None and self._last_error is None:
                _log.warning("the outbox waits for the service: %s", error)
            elif error is None and self._last_error is not None:
                _log.info("the outbox no longer waits for the service")
            if error is not None:
                _log.debug("attempt failed: %s", error)
            self._state = state
            self._last_error = error
            self._changed.notify_all()

    def _pause(self, failures: int, retry_after: float | None) -> bool:
        """Wait before the next attempt. Return False if the outbox is closed meanwhile."""
        with self._changed:
            pause = (retry_after or 0.0) + self._retry.jitter(failures)
            return not self._changed.wait_for(lambda: self._closing, pause)


def _encode(reading: Mapping[str, Any], number: int) -> str:
    if isinstance(reading, Mapping) and "db_password" in reading:
        raise ValueError(
            f"reading {number} has a db_password: give the password to the client instead, because"
            " the file of an outbox holds no passwords"
        )
    return encode_reading(reading, number)


def _may_be_stored(error: Exception) -> bool:
    """Return whether the service may have stored the batch of a failed attempt."""
    if isinstance(error, NoResponseError):
        return error.sent
    # A proxy may have replaced the answer of the service, even by one with 200.
    status = getattr(error, "status", None)
    return status is not None and (status >= HTTPStatus.INTERNAL_SERVER_ERROR or status < 300)
