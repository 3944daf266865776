-- Indexes with which no statement's cost grows with what it does not ask for (docs/scaling.md).

-- A vault's small segments, for compaction to find: those with fewer readings than
-- `iot_stores.small_segments.SMALL`. Large ones, which are most of the history, are not in it.
CREATE INDEX segments_small ON segments (vault_id, received_min) WHERE count < 512;

-- The greatest relative time of all vaults. Over an expression, so that it serves this question and
-- no other: for one vault's maxtime or window the planner took the plain index now and then, and
-- went through the rows of every vault whose clock is ahead.
DROP INDEX segments_maxtime;
CREATE INDEX segments_maxtime ON segments ((relative_max + 0));

-- A window of relative time. With the lower bound in it, segments that begin after the window are
-- passed over in the index.
DROP INDEX segments_by_relative;
CREATE INDEX segments_by_relative ON segments (vault_id, relative_max, relative_min);

-- What retention deletes. Rows are inserted about in this order, so a few kB find them in a month.
CREATE INDEX segments_received ON segments USING brin (received_min)
    WITH (pages_per_range = 16, autosummarize = on);

-- Every drain writes `seen_at`. Indexed, no such update could stay within its page (HOT): twice the
-- WAL a drain, and two indexes and a table that grew until the next vacuum. Read once an hour.
DROP INDEX ingest_sessions_seen;

-- The segments in which a position (interrogator timestamp, id) lies, whatever the vault's size: by
-- how far a segment reaches, in powers of 256, then by its begin. See iot_stores/interval_index.py. Those of
-- one reading reach nowhere and are not in it. Over an expression, so that it serves this question
-- and no other.
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
