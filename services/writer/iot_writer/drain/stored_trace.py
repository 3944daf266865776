"""Traces of drains: a drain appears in the trace of each PUT whose entries it opens."""

import uuid
from collections.abc import Sequence

from iot_cipher.encryption import EntryName
from iot_models import tracing
from iot_models.tracing import Phase

from .batch import StoredBatch


def trace_stored(stored: StoredBatch, phases: Sequence[Phase]) -> None:
    """Record the phases of the drain in the trace of each entry whose PUT was traced.

    The attribute `iot.stored` says whether this drain has stored the entry. If not, the entry is
    held, an earlier drain has stored it, or it was dropped because its vault was erased.
    """
    shard = stored.batch.shard
    traced = [each for each in stored.batch.opened if each.waiting.traceparent]
    if not traced:
        return
    segments = {name: segment for segment, names in stored.entries_by_segment() for name in names}
    for waiting, opened, entry in traced:
        name = EntryName(shard, opened.session, opened.number)
        attributes: dict[str, object] = {
            "iot.entry": name,
            "iot.shard": shard,
            "iot.vault": uuid.UUID(bytes=entry.vault_id),
            "iot.readings": len(entry.readings),
            "iot.stored": name in segments,
        }
        if name in segments:
            attributes["iot.segment"] = segments[name].bounds.first_id
        tracing.record("store an entry", waiting.traceparent, phases, attributes)
