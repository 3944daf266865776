"""Orders to replay or drop a dead letter: API processes give them, a writer carries them out.

The Redis user of the API has no permission to delete dead letters. A hash in Redis holds at most
one order for each letter, under the letter's id. An order names the client that asked for it. It is
sealed, so only a process with the transit keys can make it. A lost order does no harm: the letter
stays.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

from redis import Redis

from iot_cipher.encryption import TransitKeys
from iot_cipher.sealed_order import OrderKind, open_order, seal_order
from iot_models.audit_event import Value
from iot_models.errors import DecryptionError
from iot_models.names import KeyNames

from .dead_letters import is_letter_id
from .scripts import run_commands


class LetterAction(StrEnum):
    """What an order for a dead letter asks for."""

    REPLAY = "replay"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class LetterOrder:
    """An order to replay or drop a dead letter."""

    letter_id: str
    action: LetterAction
    client: Mapping[str, Value]
    """Who asked, for the audit log: the address under the key "client", and the name of the token
    (or None) under the key "token"."""

    def encode(self) -> bytes:
        """Return the content of the order, not yet sealed."""
        content = [self.letter_id, self.action, self.client["token"], self.client["client"]]
        return json.dumps(content).encode()


class DeadLetterOrders:
    """The orders for dead letters that wait for a writer."""

    def __init__(self, client: "Redis", names: KeyNames, keys: Callable[[], TransitKeys]) -> None:
        self._client = client
        self._names = names
        self._keys = keys

    def place(self, order: LetterOrder) -> LetterAction | None:
        """Add an order, unless an earlier order for the same letter waits.

        Return the action of the order that waits now. Return None if an earlier order is not valid,
        or if a writer removed the earlier order during this call. In both cases, `order` is not
        added.
        """
        name, letter_id = self._names.dead_letter_orders, order.letter_id
        sealed = seal_order(self._keys(), order.encode(), OrderKind.DEAD_LETTER)
        (placed,) = run_commands(self._client, [("HSETNX", name, letter_id, sealed)])
        if placed:
            return order.action
        found = cast("bytes | None", self._client.hget(name, letter_id))
        waiting = None if found is None else self._open(letter_id, found)
        return None if waiting is None else waiting.action

    def has(self, letter_id: str) -> bool:
        """Return whether an order for the letter waits."""
        return self._client.hget(self._names.dead_letter_orders, letter_id) is not None

    def actions(self) -> dict[str, LetterAction]:
        """Return what the waiting orders ask for, by the id of the letter."""
        found = self.waiting().items()
        return {letter_id: order.action for letter_id, order in found if order is not None}

    def waiting(self) -> dict[str, LetterOrder | None]:
        """Return the waiting orders by the id of their letter; None for an order that is not valid.

        An order is valid if a transit key opens the order and its content names the same letter:
        somebody who can write to Redis could copy an order to the id of another letter.
        """
        found = self._client.hgetall(self._names.dead_letter_orders)
        named = {
            letter_id.decode(errors="surrogateescape"): sealed
            for letter_id, sealed in cast("dict[bytes, bytes]", found).items()
        }
        return {letter_id: self._open(letter_id, sealed) for letter_id, sealed in named.items()}

    def remove(self, letter_id: str) -> None:
        """Remove the order for a letter."""
        name = letter_id.encode(errors="surrogateescape")
        run_commands(self._client, [("HDEL", self._names.dead_letter_orders, name)])

    def _open(self, letter_id: str, sealed: bytes) -> LetterOrder | None:
        try:
            content = json.loads(open_order(self._keys(), sealed, OrderKind.DEAD_LETTER))
            of_letter, action, token, client = content
            asked = {"token": token, "client": client}
            order = LetterOrder(of_letter, LetterAction(action), asked)
        except (DecryptionError, TypeError, ValueError, RecursionError):
            return None
        # The id in the hash is not authenticated.
        return order if of_letter == letter_id and is_letter_id(letter_id) else None
