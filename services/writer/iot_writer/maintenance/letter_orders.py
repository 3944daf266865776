"""Carries out orders of API processes to replay or drop dead letters."""

import logging
import time
from collections.abc import Callable

from redis.exceptions import RedisError

from iot_cipher.encryption import Opener
from iot_models.audit_event import AuditKind, audit_event
from iot_models.errors import TooLargeError, UnavailableError
from iot_stores.audit import AuditLog
from iot_stores.backlog import Backlog
from iot_stores.dead_letter_orders import DeadLetterOrders, LetterAction, LetterOrder
from iot_stores.dead_letters import DeadLetters
from iot_stores.forgotten import REASON, is_forgotten
from iot_stores.postgres import Connection
from iot_stores.redis_watch import UnfitRedisError
from iot_stores.store_states import report

RUN_SECONDS = 1.0
"""Time after which a run ends, so that drains need not wait for many orders."""

_log = logging.getLogger(__name__)


class LetterOrders:
    """Carries out the orders, one letter at a time.

    An order takes four steps: replay the letter (unless the order is to drop it), add a record to
    the audit log, delete the letter, delete the order. If the writer is killed, a later run repeats
    steps: the ledger recognises a second copy of a replayed entry, and the audit log may have the
    record twice.
    """

    def __init__(
        self,
        orders: DeadLetterOrders,
        letters: DeadLetters,
        backlog: Backlog,
        opener: Opener,
        audit: AuditLog,
        require_ownership: Callable[[], None],
    ) -> None:
        """`require_ownership` raises an error unless Redis belongs to this installation."""
        self._orders = orders
        self._letters = letters
        self._backlog = backlog
        self._opener = opener
        self._audit = audit
        self._require_ours = require_ownership

    def run(self, connect: Callable[[], Connection]) -> None:
        """Carry out the waiting orders for about `RUN_SECONDS`. Log errors of Redis.

        Raises:
            psycopg.Error: Postgres can't serve; a later run continues.
        """
        try:
            self._run(connect)
        except (RedisError, UnfitRedisError) as error:
            report(_log, "no dead letters are replayed or dropped", error)

    def _run(self, connect: Callable[[], Connection]) -> None:
        waiting = self._orders.waiting()
        if not waiting:
            return
        self._require_ours()
        until = time.monotonic() + RUN_SECONDS
        for letter_id, order in waiting.items():
            if time.monotonic() >= until:
                return
            try:
                self._carry_out(connect(), letter_id, order)
            except UnavailableError as error:
                report(_log, "a dead letter could not be replayed or dropped", error)
            except TooLargeError:
                too_large = TooLargeError(
                    f"dead letter {letter_id} is larger than IOT_BACKLOG_MAX_BYTES"
                )
                consequence = (
                    "the order to replay it waits: raise the setting, or delete the letter with "
                    "`iot-sensor dead drop`"
                )
                report(_log, consequence, too_large)
            else:
                self._orders.remove(letter_id)

    def _carry_out(self, connection: Connection, letter_id: str, order: LetterOrder | None) -> None:
        if order is None:
            _log.error("refused an invalid order for a dead letter: somebody planted it in Redis")
            return
        letter = self._letters.find(letter_id)
        if letter is None:  # a writer was killed after it had carried out the order
            return
        if self._backlog.holds(letter.shard, letter.entry_id):
            # The drain that set the entry aside failed afterwards. If the letter were deleted now,
            # the next drain would set the entry aside again.
            raise UnavailableError(
                "the entry of the dead letter is still in the backlog: the order waits until a "
                "drain has removed the entry"
            )
        now = self._backlog.now()
        if order.action is LetterAction.DROP:
            event = audit_event(
                AuditKind.DEAD_LETTER_DROPPED,
                letter=letter_id, shard=letter.shard, reason=letter.reason, **order.client,
            )  # fmt: skip
        elif is_forgotten(connection, self._opener, letter, now):
            _log.warning("dead letter %s is not replayed: %s", letter_id, REASON)
            return
        else:
            received = letter.received_for_replay(now)
            self._backlog.append([(letter.shard, letter.sealed)], received=received)
            event = audit_event(
                AuditKind.DEAD_LETTER_REPLAYED,
                letter=letter_id, shard=letter.shard, **order.client,
            )  # fmt: skip
        self._audit.record(connection, event)
        self._letters.drop(letter)
        _log.info("carried out the order to %s dead letter %s", order.action, letter_id)
