"""Conditions of an append to the backlog: guards, and an Idempotency-Key that must be new."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from iot_models.names import KeyNames


@dataclass(frozen=True, slots=True)
class RememberedRequest:
    """A request with an Idempotency-Key, and limits on the number of such requests."""

    names: tuple[str, ...]
    """The key in Redis that remembers the request, then the keys under which other versions may
    have remembered it."""
    seconds: int
    """How long the request is remembered."""
    answer: bytes
    """The answer to the request and its repeats."""
    max_requests: int
    """Maximum number of remembered requests."""
    counter: str
    """The key in Redis that counts the remembered requests of the client."""
    max_requests_of_client: int
    """Maximum of that counter."""


class Guard(NamedTuple):
    """A counter in Redis, and its limit: nothing is appended once the counter has reached it."""

    name: str
    limit: int


def conditions(
    guards: Sequence[Guard], request: RememberedRequest | None, names: KeyNames
) -> list[Any]:
    """Return the conditions as arguments of `backlog_append.lua`."""
    arguments: list[Any] = [len(guards)]
    for guard in guards:
        arguments += guard
    if request is None:
        return [*arguments, ""]
    name, *other_names = request.names
    return [
        *arguments,
        name, request.seconds, request.answer,
        names.remembered_counts, request.max_requests,
        request.counter, request.max_requests_of_client, len(other_names), *other_names,
    ]  # fmt: skip
