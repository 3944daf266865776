"""Conditions of an append to the backlog: counters below their limits, a new Idempotency-Key."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from iot_models.names import KeyNames


@dataclass(frozen=True, slots=True)
class RememberedRequest:
    """A request that Redis remembers by its Idempotency-Key, and limits on remembered requests."""

    names: tuple[str, ...]
    """The key in Redis that remembers the request, then the keys that other versions of the service
    use for the same request."""
    seconds: int
    """How long the request is remembered."""
    answer: bytes
    """The answer to the request. Redis stores it, so that a repeated request gets it, too."""
    max_requests: int
    """Maximum number of remembered requests of all clients."""
    counter: str
    """The key in Redis that counts the remembered requests of the client."""
    max_requests_of_client: int
    """Maximum number of remembered requests of the client."""
    earlier: str = ""
    """The key in Redis that remembers an earlier attempt at this request; empty: no such attempt.

    The earlier attempt appended some of the readings, and this attempt appends only the others. If
    Redis no longer has the key, nothing is appended: a failover may have lost the key together with
    the readings of the earlier attempt."""


class Guard(NamedTuple):
    """A counter in Redis, and its limit. Nothing is appended if the counter is at the limit."""

    name: str
    limit: int


def conditions(
    guards: Sequence[Guard], request: RememberedRequest | None, names: KeyNames
) -> list[Any]:
    """Return the conditions as arguments of `backlog_append.lua`."""
    checks: list[tuple[str, int | str]] = [*guards]
    if request is not None and request.earlier:
        checks.append((request.earlier, ""))
    arguments: list[Any] = [len(checks)]
    for check in checks:
        arguments += check
    if request is None:
        return [*arguments, ""]
    name, *other_names = request.names
    return [
        *arguments,
        name, request.seconds, request.answer,
        names.remembered_counts, request.max_requests,
        request.counter, request.max_requests_of_client, len(other_names), *other_names,
    ]  # fmt: skip
