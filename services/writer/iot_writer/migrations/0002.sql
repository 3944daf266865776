-- Indexes that keep the cost of a statement independent of rows that it does not read (docs/scaling.md).

-- Compaction finds a vault's small segments: those with fewer readings than
-- `iot_stores.small_segments.SMALL_READINGS`. Large segments, most of the history, are not in the index.
CREATE INDEX segments_small ON segments (vault_id, received_min) WHERE count < 512;

-- The greatest relative time of all vaults. The index is on an expression, so that only this query can
-- use it: for a vault's maxtime or window the planner sometimes chose the plain index, and then read
-- the rows of every vault whose clock is ahead.
DROP INDEX segments_maxtime;
CREATE INDEX segments_maxtime ON segments ((relative_max + 0));

-- A window of relative time. The index has the lower bound too, so segments that begin after the
-- window are skipped in the index.
DROP INDEX segments_by_relative;
CREATE INDEX segments_by_relative ON segments (vault_id, relative_max, relative_min);

-- Retention finds old rows. Rows are inserted roughly in this order, so a BRIN index of a few kB suffices.
CREATE INDEX segments_received ON segments USING brin (received_min)
    WITH (pages_per_range = 16, autosummarize = on);

-- Every drain writes `seen_at`. With an index on it, these updates could not stay within their page (HOT): a drain would
-- write twice the WAL, and the table and two indexes would grow until the next vacuum. Only retention reads `seen_at`, hourly.
DROP INDEX ingest_sessions_seen;

-- Finds the segments that contain a position (interrogator timestamp, id), independent of the vault's size:
-- by the length of a segment in powers of 256, then by its begin. See iot_stores/interval_index.py. Segments
-- of one reading have no length and are not in the index. The index is on an expression, so that only this
-- query can use it.
CREATE INDEX segments_reach ON segments (
    vault_id,
    width_bucket(
        (interrogator_max::numeric - interrogator_min) * 9007199254740992 + (last_id - first_id),
        '{65536, 16777216, 4294967296, 9007199254740992, 2305843009213693952, 590295810358705651712,
          151115727451828646838272, 38685626227668133590597632, 9903520314283042199192993792,
          2535301200456458802993406410752, 649037107316853453566312041152512}'::numeric[]
    ),
    (interrogator_min + 0),
    first_id
) WHERE last_id > first_id;
