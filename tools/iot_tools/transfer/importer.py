"""The import of a file. It can be repeated: only readings that the service lacks are sent.

1. Read the file, check each row and note the digests of the readings (`ImportPlan`).
2. Read the vault, and note which of these readings the service has.
3. Send the readings that the service lacks, in chunks, and wait until all chunks are stored. Each
   chunk becomes one entry, and has an Idempotency-Key made from its readings.

If a run is killed, each chunk is stored completely or not at all, so the next run continues with
the missing chunks. Chunks that were accepted but are not stored yet are sent again with the same
keys, so the service does not store them twice. This needs an unchanged file: if rows were added,
the last chunk has another key, and the service stores its readings twice.

The service remembers an Idempotency-Key for a day. If it knows the key of a chunk, it repeats its
first answer and stores nothing, even if the readings were erased since. So after a repeated answer,
the import reads the vault again, and sends absent readings with new keys.
"""

import hashlib
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from http import HTTPStatus

from iot_models.errors import ErrorCode, IotError, Refusal
from iot_models.reading import INT64_MAX, INT64_MIN
from iot_sensor_client import Client, ClientError, RejectedError, Response
from iot_sensor_client.batches import created_text
from iot_sensor_client.errors import FOREIGN, answer_of, json_members, raise_for_status

from .import_chunks import Chunk, Chunks
from .import_plan import ImportPlan
from .import_row import ImportRow, OtherPasswordError, RowError, reading_digest
from .import_sources import Source
from .service_pages import ServiceError, ServicePages

_PATH = "/api/iot?received=original"
_UNSTORED_CHUNKS = 16
"""Number of chunks that may wait in the backlog. After this many chunks, the import waits until the
last one is stored. Then all are stored, because entries of a vault are stored in order."""
_MAX_ROUNDS = 3
_STORED_SECONDS = 600.0
_MAX_EXAMPLES = 5
_REFUSED_TIME = "0001-01-01 00:00:00"
"""A time of receipt that every service refuses."""
_OTHER_FORM = (
    "an earlier import has sent these readings in another form, such as with other fractions of a "
    "second in the times of receipt, and they are not in the vault: wait until the service has "
    "stored them (if they were erased: for a day), then run the import again"
)
_AFTER_A_DAY = (
    "after a day, or raise IOT_IDEMPOTENCY_MAX_REQUESTS (a file in the order of the times of "
    "receipt needs fewer requests)"
)

Progress = Callable[[str, int, int | None], None]
"""Reports the current step, how many rows or readings are done, and the total if it is known."""


@dataclass(slots=True)
class ImportReport:
    """How many rows an import found in the file, and what became of them."""

    readings: int = 0
    """Valid readings in the file."""
    present: int = 0
    """Readings of the file that the service had before the import."""
    imported: int = 0
    other_password: int = 0
    unusable: Counter[str] = field(default_factory=Counter)
    """Number of rows that can't be imported, by reason."""
    examples: list[str] = field(default_factory=list)
    """The first rows that can't be imported, with the reason."""

    @property
    def rows(self) -> int:
        """Number of rows in the file."""
        return self.readings + self.other_password + self.unusable.total()

    def refuse(self, row: int, reason: str) -> None:
        """Count a row that can't be imported.

        The first row of the file has the number 1. Rows are counted by reason: the part of `reason`
        before the first colon.
        """
        kind = reason.partition(": ")[0]
        self.unusable[kind] += 1
        if len(self.examples) < _MAX_EXAMPLES:
            self.examples.append(f"row {row}: {reason}")


@dataclass(slots=True)
class _Limits:
    """The oldest and the latest time of receipt that the service accepts.

    All times are allowed until the service refuses a row and names its limits.
    """

    oldest: str = ""
    latest: str = "9999"

    def allow(self, row: ImportRow) -> bool:
        return self.oldest <= row.received_second <= self.latest


def _limits_in(response: Response | None) -> _Limits | None:
    """Return the limits that the service names when it refuses a time of receipt, else None."""
    try:
        details = response.json() if response is not None else {}
        return _Limits(str(details["oldest"]), str(details["latest"]))
    except (ValueError, KeyError, TypeError):
        return None


class Importer:
    """The import of one file under one password."""

    def __init__(self, client: Client, source: Source, password: str, progress: Progress) -> None:
        self._client = client
        self._source = source
        self._password = password
        self._progress = progress
        self._plan = ImportPlan()
        self._limits = _Limits()
        self._unstored: tuple[bytes, dict[str, str]] | None = None
        """Body and headers of the last accepted request; None if the import has waited for it."""
        self._low, self._high = INT64_MAX, INT64_MIN
        """Lowest and highest relative timestamp in the file."""
        self.report = ImportReport()

    def run(self, *, dry_run: bool = False) -> ImportReport:
        """Import the readings that the service lacks; with `dry_run`, only count them.

        A dry run also reports the rows whose time of receipt the service refuses. It does not find
        rows that the service would refuse for other reasons in an import, for example because a
        reading is larger than the service's limit for bodies.

        Raises:
            ImportFileError: the file can't be read.
            ServiceError: the service refuses or is unavailable. A second run continues the import.
            IotError: the disk is full. A second run continues the import.
        """
        try:
            with closing(self._plan):
                self._run(dry_run=dry_run)
        except sqlite3.Error as error:
            raise IotError(
                f"the temporary file of the import can't be used: {error}; free some disk space, "
                "or name another folder in SQLITE_TMPDIR, then run the import again"
            ) from None
        return self.report

    def _run(self, *, dry_run: bool) -> None:
        self._plan.load(self._digests())
        if self.report.readings:
            self._compare()
            self.report.present = self.report.readings - self._plan.absent()
            if not dry_run:
                self._import()
            elif self._plan.absent():
                self._refuse_times()

    def _refuse_times(self) -> None:
        """Count absent readings whose time of receipt the service refuses. Import nothing.

        To learn the limits of the service, send a made-up reading with a time of receipt that every
        service refuses.
        """
        reading = ImportRow(_REFUSED_TIME, 0, 0, "null", "null").body(self._password)
        headers = {"Content-Type": "application/x-ndjson"}
        try:
            response = self._client.request("PUT", _PATH, reading, headers, repeatable=True)
            limits = _limits_in(response)
            if limits is None:
                raise_for_status(response)
                raise ServiceError(FOREIGN)
        except ClientError as error:
            raise ServiceError(error.reason) from None
        self._limits = limits
        for row in self._absent_rows():
            self._allowed([row])

    def _import(self) -> None:
        for round_number in range(1, _MAX_ROUNDS + 1):
            if not self._send_absent(round_number):
                return
            self._compare()
            absent = self._plan.absent()
            self.report.imported = self.report.readings - self.report.present - absent
            if not absent:
                return
        raise ServiceError(
            "the service answers that some readings are stored already, but the vault does not "
            "contain them; run the import again"
        )

    def _digests(self) -> Iterator[tuple[int, bytes]]:
        """Check all rows, and yield the position and the digest of each reading."""
        total = self._source.count()
        for position, row in enumerate(self._source.rows()):
            if position % 1000 == 0:
                self._progress("checking", position, total)
            if isinstance(row, OtherPasswordError):
                self.report.other_password += 1
            elif isinstance(row, RowError):
                self.report.refuse(position + 1, str(row))
            else:
                self.report.readings += 1
                self._low = min(self._low, row.relative)
                self._high = max(self._high, row.relative)
                yield position, row.digest()

    def _compare(self) -> None:
        """Read the vault, and mark in the plan which readings the service has.

        The vault is read page by page. Between two pages, a writer may store a chunk of an earlier,
        killed run. The read then misses the readings of this chunk that belong to earlier pages.
        The import would send the missed readings with another Idempotency-Key, and the service
        would store them twice. So read the vault until two successive reads find the same number of
        the file's readings. One read is enough if it finds all readings of the file. It is also
        enough if it finds none: the import then sends the chunks of an earlier run again, under the
        same keys.
        """
        before = self.report.readings
        while True:
            self._plan.compare(self._stored_digests())
            absent = self._plan.absent()
            if absent in {0, before}:
                return
            before = absent

    def _stored_digests(self) -> Iterator[bytes]:
        pages = ServicePages(self._client, self._password, f"/api/iot/{self._low}/{self._high}")
        done = 0
        for page in pages.pages():
            self._progress("comparing", done, None)
            yield from map(reading_digest, page.readings)
            done += len(page.readings)

    def _send_absent(self, round_number: int) -> bool:
        """Send the readings that the last `_compare` did not find in the vault.

        Return True if `_send` returned True for any chunk. `round_number`, from 1, is a part of
        each Idempotency-Key, so that each round has new keys.
        """
        repeated, count, total = False, 0, self._plan.absent()
        chunks = Chunks(self._absent_rows())
        while chunks.left():
            self._progress("importing", chunks.taken, total)
            chunk, count = chunks.take(), count + 1
            wait = not chunks.left() or count % _UNSTORED_CHUNKS == 0
            repeated |= self._send(chunk, chunks, round_number, wait=wait)
        if self._unstored is not None:
            # The service refused all rows of the chunk that was to wait.
            self._wait_until_stored(self._repeat(*self._unstored), *self._unstored)
        return repeated

    def _repeat(self, body: bytes, headers: dict[str, str]) -> Response:
        """Repeat an accepted request.

        The service knows the Idempotency-Key, so it stores nothing. It answers 201 when the
        readings are stored.
        """
        try:
            response = self._client.request("PUT", f"{_PATH}&ack=stored", body, headers)
            answer_of(response, "success", created_text(body.count(b"\n") + 1))
        except ClientError as error:
            raise self._failed(error) from None
        return response

    def _failed(self, error: ClientError) -> ServiceError:
        advice = "run the import again to continue"
        if json_members(error.response).get("reason") == Refusal.REMEMBERED_REQUESTS:
            advice += f" {_AFTER_A_DAY}"
        return ServiceError(f"{error.reason}; readings imported: {self.report.imported}; {advice}")

    def _absent_rows(self) -> Iterator[tuple[int, ImportRow]]:
        absent = self._plan.absent_positions()
        wanted = next(absent, None)
        for position, row in enumerate(self._source.rows()):
            if wanted is None:
                break
            if position != wanted:
                continue
            wanted = next(absent, None)
            if isinstance(row, RowError):
                raise IotError("the file was changed during the import; run the import again")
            yield position, row

    def _send(self, rows: Chunk, chunks: Chunks, round_number: int, *, wait: bool) -> bool:
        """Send a chunk, without the rows that the service refuses.

        While the chunk is too large for the service, put its second half back into `chunks`. Return
        True if the service knew the chunk's Idempotency-Key from an earlier request, and stored
        nothing now. Also return True for a 202, which does not tell whether the service knew the
        key. With `wait`, return only when the chunk is stored.
        """
        path = f"{_PATH}&ack=stored" if wait else _PATH
        while rows := self._allowed(rows):
            # With the position, because other readings of the file may be equal.
            parts = [rows[0][0].to_bytes(8), *(row.digest() for _, row in rows)]
            key = hashlib.sha256(b"".join(parts)).hexdigest()
            body = b"\n".join(row.body(self._password) for _, row in rows)
            headers = {
                "Content-Type": "application/x-ndjson",
                "Idempotency-Key": f"import-{key[:32]}-{round_number}",
            }
            try:
                response = self._client.request("PUT", path, body, headers)
                answer_of(response, "success", created_text(len(rows)))
            except RejectedError as error:
                if error.code == ErrorCode.IDEMPOTENCY_KEY_REUSED:
                    raise ServiceError(_OTHER_FORM) from None
                if error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE and len(rows) > 1:
                    half = len(rows) // 2
                    chunks.put_back(rows[half:])
                    rows = rows[:half]
                else:
                    rows = self._without_refused(rows, error)
                continue
            except ClientError as error:
                raise self._failed(error) from None
            self._wait_until_stored(response, body, headers)
            self._unstored = None if wait else (body, headers)
            # 202 does not tell whether the request was repeated.
            if response.status == HTTPStatus.ACCEPTED or "Idempotent-Replayed" in response.headers:
                return True
            self.report.imported += len(rows)
            return False
        return False

    def _allowed(self, rows: Chunk) -> Chunk:
        """Return the rows within the limits of the service. Count the other rows as refused."""
        allowed = []
        for position, row in rows:
            if self._limits.allow(row):
                allowed.append((position, row))
            else:
                limits = f"{self._limits.oldest} to {self._limits.latest}"
                self._refuse(
                    position, f"the service accepts times of receipt from {limits}: {row.received}"
                )
        return allowed

    def _without_refused(self, rows: Chunk, error: RejectedError) -> Chunk:
        """Return the rows to send after the service has refused one of them.

        If the service refused a time of receipt, note the limits that the response names, and
        return all rows: the caller removes the rows beyond the limits (`_allowed`). Else remove the
        refused row: the row that the response names, or the only row if it is too large.
        """
        if error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            number = 0
        else:
            try:
                details = error.response.json() if error.response is not None else {}
                number = int(details["row"])
                rows[number]
            except (ValueError, KeyError, TypeError, IndexError):
                raise ServiceError(error.reason) from None
        position, row = rows[number]
        limits = _limits_in(error.response)
        if limits is not None and not limits.allow(row):
            self._limits = limits
            return rows
        self._refuse(position, f"refused by the service: {error.reason}")
        return rows[:number] + rows[number + 1 :]

    def _refuse(self, position: int, reason: str) -> None:
        self._plan.remove(position)
        self.report.readings -= 1
        self.report.refuse(position + 1, reason)

    def _wait_until_stored(self, response: Response, body: bytes, headers: dict[str, str]) -> None:
        """After a 202, repeat the request until it is answered 201.

        The receipt of a 202 tells only of one chunk. A 201 says that earlier chunks are stored,
        too: `_compare` must not miss them, or they would be sent with other keys.
        """
        until = time.monotonic() + _STORED_SECONDS
        while response.status == HTTPStatus.ACCEPTED:
            if time.monotonic() > until:
                raise ServiceError(
                    "the service has accepted readings, but has not stored them in "
                    f"{_STORED_SECONDS:g} s: its writers may be down; run the import again to "
                    "continue"
                )
            time.sleep(min(response.retry_after or 1.0, max(0.0, until - time.monotonic())))
            response = self._repeat(body, headers)
