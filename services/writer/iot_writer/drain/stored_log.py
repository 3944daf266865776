"""The log of stored segments (`IOT_LOG_REQUESTS=1`): in which segment each entry is."""

import logging

from .batch import StoredBatch

_MAX_LISTED = 100
_log = logging.getLogger(__name__)


def log_stored(stored: StoredBatch) -> None:
    """Log each segment with the names of its entries. The API logs these names for each PUT."""
    for segment, entries in stored.entries_by_segment():
        fields = {
            "vault": str(segment.vault_id),
            "shard": stored.batch.shard,
            "first_id": segment.bounds.first_id,
            "last_id": segment.bounds.last_id,
            "readings": segment.bounds.count,
            "entries": len(entries),
            "entry": [str(name) for name in entries[:_MAX_LISTED]],
        }
        _log.info("a segment is stored", extra=fields)
