"""Replay or drop a dead letter: the API makes an order, and a writer carries it out."""

import time
from collections.abc import Callable

from iot_api.limits.clients import Client
from iot_cipher.encryption import Opener
from iot_models.errors import ConflictError, NotFoundError, UnavailableError
from iot_stores.dead_letter_orders import DeadLetterOrders, LetterAction, LetterOrder
from iot_stores.dead_letters import DeadLetter
from iot_stores.forgotten import REASON, is_forgotten
from iot_stores.postgres import Pool
from iot_stores.stores import Stores

WAIT_SECONDS = 3.0
"""Longest wait for a writer, which looks for orders every 2 seconds."""
_PAUSE_SECONDS = 0.05


class LetterActions:
    """Sends writers an order to replay or drop a dead letter, and briefly waits for the result."""

    def __init__(
        self,
        stores: Stores,
        orders: DeadLetterOrders,
        opener: Opener,
        pool: Pool,
        sweep: Callable[[], object],
    ) -> None:
        """`sweep` queues the writers' job `SWEEP_JOB`, which also carries out the orders."""
        self._stores = stores
        self._orders = orders
        self._opener = opener
        self._pool = pool
        self._sweep = sweep

    def run(self, letter_id: str, action: LetterAction, client: Client) -> bool:
        """Order an action. Return whether it is done; False if a writer will do it later.

        Raises:
            NotFoundError: there is no such dead letter.
            ConflictError: writers already have an order for the other action, or it is unknown
                whether the letter's readings are stored.
            UnavailableError: Redis belongs to another installation, or the writer refused.
            RedisError, psycopg.Error: a store is away. The order may have been sent.
        """
        self._stores.watch.require_ownership()
        letter = self._letter(letter_id)
        if action is LetterAction.REPLAY:
            self._refuse_forgotten(letter)
        order = LetterOrder(letter_id, action, client.fields)
        ordered = self._orders.place(order)
        if ordered not in {action, None}:
            raise ConflictError(
                f"can't {action} dead letter {letter_id}: "
                f"writers already have an order to {ordered} it"
            )
        self._sweep()
        return self._wait(letter_id)

    def _letter(self, letter_id: str) -> DeadLetter:
        try:
            letter = self._stores.dead_letters.find(letter_id)
        except ValueError:
            letter = None
        if letter is None or letter.letter_id != letter_id:
            raise NotFoundError(
                "no dead letter has this id; it may have been replayed or dropped", field="letter"
            )
        return letter

    def _refuse_forgotten(self, letter: DeadLetter) -> None:
        now = self._stores.backlog.now()
        with self._pool.connection() as connection:
            if is_forgotten(connection, self._opener, letter, now):
                raise ConflictError(
                    f"dead letter {letter.letter_id} is not replayed: {REASON}; "
                    "`iot-sensor dead replay --even-if-stored` stores these readings, perhaps twice"
                )

    def _wait(self, letter_id: str) -> bool:
        until = time.monotonic() + WAIT_SECONDS
        while self._orders.has(letter_id):
            if time.monotonic() >= until:
                return False
            time.sleep(_PAUSE_SECONDS)
        if self._stores.dead_letters.find(letter_id) is not None:
            raise UnavailableError(
                f"a writer refused the order for dead letter {letter_id}; see the writers' log",
                retry_after=10,
            )
        return True
