-- A vault's small segments, for compaction to find: those with fewer readings than
-- `iot_stores.compaction.SMALL`. Large ones, which are most of the history, are not in it.
CREATE INDEX segments_small ON segments (vault_id, received_min) WHERE count < 512;
