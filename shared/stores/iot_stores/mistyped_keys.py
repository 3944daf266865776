"""Deletion of Redis keys whose value has the wrong type.

Another program wrote the value, or an operator by mistake. Redis refuses the commands that the
service sends for such a key (WRONGTYPE). What the service had stored in the key is lost already, so
deleting the key loses nothing more.

A later version that stores another type must also use another name for the key. Otherwise, writers
of this version would delete the key during a rolling update.

`MistypedKeys` checks the keys of RQ, the streams of the backlog, and others such as the keys of
dead letters and orders. The remaining keys are repaired by the code that uses them, for
example `backlog_recount.lua`, `hot_window_write.lua` and the scripts of held entries.
"""

from collections.abc import Iterable, Iterator
from typing import cast

from redis import Redis

from iot_models.names import JOB_QUEUE, JOBS, KeyNames, drain_job

from .scripts import load_script


class MistypedKeys:
    """Deletes the keys whose value has the wrong type."""

    def __init__(self, client: "Redis", names: KeyNames) -> None:
        self._client = client
        self._names = names
        self._delete = load_script(client, "mistyped_keys_delete.lua")

    def delete(self, shards: Iterable[int]) -> list[str]:
        """Delete the keys whose value has the wrong type. Return their names.

        `shards`: the shards whose keys are checked, besides the keys that belong to no shard.

        Raises:
            RedisError: Redis can't serve.
        """
        types = dict(self._types(shards))
        deleted = cast("list[bytes]", self._delete(keys=list(types), args=list(types.values())))
        return [key.decode() for key in deleted]

    def _types(self, shards: Iterable[int]) -> Iterator[tuple[str, str]]:
        """Yield the name and the right type of each key to check."""
        names, rq, shards = self._names, self._names.rq, list(shards)
        yield names.job_list, "list"
        yield f"{names.job_list}:intermediate", "list"
        yield f"{rq}:workers", "set"
        yield f"{rq}:workers:{JOB_QUEUE}", "set"
        for registry in ("wip", "finished", "failed"):
            yield f"{rq}:{registry}:{JOB_QUEUE}", "zset"
        for job in (*JOBS, *map(drain_job, shards)):
            yield f"{rq}:job:{job}", "hash"
            yield f"{rq}:results:{job}", "stream"
            yield f"{rq}:executions:{job}", "zset"
        for shard in shards:
            yield names.stream(shard), "stream"
        yield names.unused_stream, "none"
        yield names.held_vaults, "hash"
        yield names.dead_letters, "stream"
        yield names.dead_letter_ids, "set"
        yield names.dead_letter_orders, "hash"
        yield names.compaction_orders, "list"
        yield names.heartbeats, "stream"
        yield names.audit_head, "string"
