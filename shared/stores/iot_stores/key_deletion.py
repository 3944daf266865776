"""Deletion of keys in Redis by API processes, whose Redis user has no right to use DEL."""

from redis import Redis


def delete_key(client: "Redis", name: str) -> None:
    """Let a key expire within a millisecond. `client` may be a pipeline.

    Until then, the key holds an empty string.
    """
    client.set(name, b"", px=1)
