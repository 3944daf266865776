"""The intake: seals the readings of a request and appends them to the backlog.

Once `Intake.accept` returns, the readings are acknowledged.
"""

import os
import time
import uuid
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from operator import attrgetter
from typing import cast

from gevent.hub import Waiter
from redis.exceptions import RedisError

from iot_api.http.request import Proven, prove
from iot_api.http.request_log import listed
from iot_api.limits.clients import Client
from iot_api.vaults.opening import Vaults
from iot_cipher.encryption import SALT_BYTES, Entry, EntryName, OpenVault, Sealer, entry_name
from iot_models import metrics, tracing
from iot_models.errors import IotError
from iot_models.reading import SEPARATOR, ReadingColumns, int64s
from iot_stores.append_conditions import Guard
from iot_stores.append_outcomes import GuardLimitError
from iot_stores.backlog_append import AppendResult, BacklogAppender
from iot_stores.months import DAY_MS
from iot_stores.redis_watch import RedisWatch

from .earlier_attempts import NO_ATTEMPT, EarlierAttempts
from .idempotency import DamagedAnswerError, IdempotencyKey, KeyedRequest
from .parser import Batch
from .put_openings import PutOpenings

MAX_READINGS = 10_000
"""Limit of readings in an entry. A larger request becomes several entries, appended in one step."""
MAX_FREEFORM_BYTES = 4 * 2**20
"""Maximum bytes of `freeform` in an entry of more than one reading. All readings of an entry are in
one segment, and a read holds whole segments in memory."""
_VAULT_ID = attrgetter("vault_id")


@dataclass(slots=True)
class Accepted:
    """The result of `Intake.accept` for one request."""

    count: int
    """Number of readings."""
    entries: tuple[EntryName, ...] = ()
    """The names of all entries of the request. If an earlier attempt appended a part of the
    readings, the entries of that attempt come first. Empty if the request has no Idempotency-Key
    and `accept` was called without `with_entries`."""
    ends: Mapping[int, int] = field(default_factory=dict)
    """By shard: where the request's entries end in the backlog (`AppendResult.ends`). Empty for a
    repeated request."""
    repeated: bool = False
    """Whether an earlier request with the same Idempotency-Key was accepted. Then nothing was
    appended now."""
    vaults: Sequence[uuid.UUID] = ()
    """The vaults of the readings."""

    def log_fields(self) -> Mapping[str, object]:
        """Return fields for the log event of the request (`http.request_log.Logged`)."""
        return {
            "readings": self.count,
            "vault": listed(self.vaults),
            "shard": listed({*self.ends, *(entry.shard for entry in self.entries)}),
            # Naming the entries of every PUT, in case it gets slow, would cost too much.
            **({"entry": listed(self.entries)} if self.entries else {}),
        }


class GreenletWakeup(Waiter):  # type: ignore[misc] # gevent has no types
    """Lets a greenlet wait until another greenlet wakes it up (`wakeups.Wakeup`).

    A wait and a wake-up take a third of the time that a lock patched by gevent takes.
    """

    __slots__ = ()

    wait = Waiter.get

    def wake(self) -> None:
        """Let the greenlet that is in `wait` continue soon."""
        self.hub.loop.run_callback(self.switch, None)


class Intake:
    """Accepts readings: opens their vaults, seals entries and appends them to the backlog."""

    def __init__(
        self,
        vaults: Vaults,
        openings: PutOpenings,
        sealer: Sealer,
        backlog: BacklogAppender,
        *,
        watch: RedisWatch,
        shards: int,
        earlier_attempts: EarlierAttempts,
    ) -> None:
        self._watch = watch
        self._vaults = vaults
        self._openings = openings
        self._guesses = vaults.guesses
        self._sealer = sealer
        self._backlog = backlog
        self._shards = shards
        self._idempotency = earlier_attempts.policy
        self._earlier_attempts = earlier_attempts
        self._session_renewals: int | None = None
        self._append = tracing.wrap("append to the backlog", backlog.append, _described)
        self._acknowledged = metrics.pending_count("iot_readings_acknowledged_total")
        self._readings = metrics.pending_observations("iot_put_readings")

    def accept(
        self,
        batches: Sequence[Batch],
        client: Client,
        key: IdempotencyKey | None = None,
        *,
        with_entries: bool = False,
        proven: Proven | None = None,
    ) -> Accepted:
        """Accept all readings of a request, or none. Accepted readings are stored exactly once.

        With `with_entries`, the result has `Accepted.entries`.

        `proven` holds the cache keys of the passwords under which earlier requests of the
        connection stored or read readings (`http.request.PROVEN`). If this request is accepted, the
        keys of its passwords are added. While the vaults of proven passwords are open, the guess
        limit does not apply to them, because the client learns nothing new. So a device can send
        while another client at its address guesses passwords.

        While an earlier request with the same Idempotency-Key and passwords is remembered, a
        request with the same readings appends nothing and returns the earlier result. If a password
        got another vault since the earlier request, only the readings of new vaults are appended.

        Raises:
            IdempotencyKeyReusedError: the earlier request with this key has other readings.
            TooManyRequestsError: nothing was appended. The client is over the guess limit or the
                limit of new vaults, or has too many remembered requests. Or too many requests wait
                for a scrypt. Or too many vaults of this request are not open.
            UnavailableError: nothing was appended: the backlog is full, too many requests are
                remembered, or Redis is not safe to use. Or the readings were appended, but too few
                replicas or disks confirmed them in time; they may be stored nevertheless.
            RedisError, psycopg.Error: a store is unavailable. If the connection to Redis broke
                after the readings were sent, they may have been appended; then they are stored
                once.
        """
        if not self._watch.safe:
            self._watch.require_safe()
        keys = [self._vaults.cache.key(batch.password) for batch in batches]
        is_proven = proven is not None and proven.issuperset(keys)
        vaults, guards = self._open(batches, keys, client, is_proven=is_proven)
        count = sum([len(batch.readings.relative) for batch in batches])
        request, earlier = None, NO_ATTEMPT
        if key is not None:
            request = self._keyed_request(key, vaults, batches)
            if guards:
                self._guesses.check(client)
            answer = self._backlog.first_answer(request.names)
            if answer is not None:
                return self._repeated(request, vaults, answer)
            earlier = self._earlier_attempts.find(key, request, keys, vaults, batches)
        sealed = [
            self._seal(vault, readings)
            for vault, batch in zip(vaults, batches, strict=True)
            if vault.id_bytes not in earlier.vaults
            for readings in _split(batch.readings)
        ]
        entries = _names(sealed) if with_entries or request is not None else ()
        entries = earlier.entries + entries
        remembered = None
        if request is not None:
            answer = request.encode_answer(count, entries)
            remembered = self._idempotency.remembered(request, answer, client, earlier=earlier.name)
        try:
            appended = self._append(sealed, remembered, guards)
        except GuardLimitError as error:
            self._sealer.abandon_numbers(len(sealed))
            raise self._guesses.refusal(client, error.seconds) from None
        except (RedisError, IotError):
            self._sealer.abandon_numbers(len(sealed))
            raise
        if request is not None and appended.first_answer is not None:
            self._sealer.abandon_numbers(len(sealed))
            return self._repeated(request, vaults, appended.first_answer)
        self._acknowledged.value += count - earlier.count
        self._readings.values.append(count)
        self._handle_writer_requests(appended)
        if not is_proven:
            self._note_used(client, keys, proven)
        return Accepted(
            count,
            entries,
            appended.ends,
            vaults=list(map(_VAULT_ID, vaults)),
        )

    def _repeated(
        self, request: KeyedRequest, vaults: Sequence[OpenVault], answer: bytes
    ) -> Accepted:
        """Return the first answer to a request for `vaults`.

        If the answer is damaged, forget it and raise `DamagedAnswerError`: the next attempt counts
        as new.
        """
        try:
            first = request.decode_answer(answer)
        except DamagedAnswerError:
            self._earlier_attempts.forget(request, answer)
            raise
        return Accepted(
            first.count, first.entries, repeated=True, vaults=list(map(_VAULT_ID, vaults))
        )

    def _keyed_request(
        self, key: IdempotencyKey, vaults: Sequence[OpenVault], batches: Sequence[Batch]
    ) -> KeyedRequest:
        old = self._vaults.policy.old_processes_may_run
        return self._idempotency.request(key, vaults, batches, old_processes_may_run=old)

    def _note_used(self, client: Client, keys: Sequence[bytes], proven: Proven | None) -> None:
        """Remember that the client has used the vaults of its passwords.

        `keys` are the cache keys of these passwords. They are added to `proven`.
        """
        self._vaults.tried.note_found(client, keys)
        if proven is not None:
            prove(proven, keys)

    def _handle_writer_requests(self, appended: AppendResult) -> None:
        """Carry out the writers' requests in `appended`, the answer of Redis to an append.

        If writers hold entries, look for the vaults that are missing in Postgres. If writers have
        asked for new sessions, begin one.
        """
        if appended.held:
            self._vaults.note_held_entries()
        if appended.session_renewals != self._session_renewals:
            if self._session_renewals is not None:
                self._sealer.renew()
            self._session_renewals = appended.session_renewals

    def _open(
        self,
        batches: Sequence[Batch],
        keys: Sequence[bytes],
        client: Client,
        *,
        is_proven: bool,
    ) -> tuple[list[OpenVault], tuple[Guard, ...]]:
        """Return the vaults of a request, and the guess limits that the append must check.

        There are three cases:

        - All vaults are open, and all passwords are proven (see `accept`). Then no limits are
          checked.
        - All vaults are open, and the client has used all of them before. Then the script that
          appends the readings checks the limits. This saves a round trip.
        - Otherwise, the limits are checked here. If the client has not used a vault before, the
          limits are checked before this process looks whether the vault is open. So a refusal does
          not tell the client whether the vault is open.

        Opening or renewing a vault may wait for a store. If a vault is erased or gets another
        password meanwhile, all vaults are looked up again.
        """
        if not is_proven:
            self._guesses.check_noted(client)
        cache = self._vaults.cache
        noted = cache.changes_noted
        if is_proven or self._vaults.tried.has_found(client, keys):
            vaults_if_open = [
                cache.writable(key) or self._vaults.open_vault(batch.password, client)
                for key, batch in zip(keys, batches, strict=True)
            ]
            # Renewing a vault may wait for a store, and meanwhile a vault may be erased.
            if None not in vaults_if_open and cache.changes_noted == noted:
                guards = () if is_proven else self._guesses.guards(client)
                return cast("list[OpenVault]", vaults_if_open), guards
        return self._openings.open(batches, keys, client), ()

    def _seal(self, vault: OpenVault, readings: ReadingColumns) -> tuple[int, bytes]:
        salt = os.urandom(SALT_BYTES)
        sealed_at = int(time.time() * 1000)
        entry = Entry(vault.id_bytes, salt, vault.chunk_key(salt), sealed_at, readings)
        shard = vault.shard(self._shards)
        return shard, self._sealer.seal(shard, entry.encode())


def _names(sealed: Iterable[tuple[int, bytes]]) -> tuple[EntryName, ...]:
    return tuple(entry_name(*each) for each in sealed)


def _described(entries: Sequence[tuple[int, bytes]], *_: object) -> dict[str, list[str]]:
    """Return the attributes of the trace span of an append: the names of its entries."""
    return {"iot.entry": listed(entry_name(*each) for each in entries)}


def _split(readings: ReadingColumns) -> Iterable[ReadingColumns]:
    """Cut readings into entries.

    All imported readings of an entry were received on the same day: they are stored in one segment,
    which retention deletes as a whole.
    """
    if readings.received is None:
        return (readings,) if _fits(readings) else _cut(readings)
    return _split_by_day(readings, readings.received)


def _split_by_day(readings: ReadingColumns, received: "array[int]") -> Iterator[ReadingColumns]:
    days: dict[int, list[int]] = {}
    for index, moment in enumerate(received):
        days.setdefault(moment // DAY_MS, []).append(index)
    texts = readings.freeform.split(SEPARATOR)
    for indices in days.values():
        time.sleep(0)  # other greenlets get a turn before the entries of each day
        yield from _cut(
            ReadingColumns(
                int64s([readings.relative[index] for index in indices]),
                int64s([readings.interrogator[index] for index in indices]),
                SEPARATOR.join([texts[index] for index in indices]),
                int64s([received[index] for index in indices]),
            )
        )


def _fits(readings: ReadingColumns) -> bool:
    return len(readings.relative) <= MAX_READINGS and len(readings.freeform) <= MAX_FREEFORM_BYTES


def _cut(readings: ReadingColumns) -> Iterator[ReadingColumns]:
    if _fits(readings):
        yield readings
        return
    texts = readings.freeform.split(SEPARATOR)
    ends = list(accumulate(len(text) + len(SEPARATOR) for text in texts))
    start = sent = 0
    while start < len(texts):
        time.sleep(0)
        fitting = bisect_right(ends, sent + MAX_FREEFORM_BYTES + len(SEPARATOR))
        end = max(start + 1, min(start + MAX_READINGS, fitting))
        part = slice(start, end)
        yield ReadingColumns(
            readings.relative[part],
            readings.interrogator[part],
            SEPARATOR.join(texts[part]),
            None if readings.received is None else readings.received[part],
        )
        start, sent = end, ends[end - 1]
