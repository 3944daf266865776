-- What a statement costs may not grow with what it does not ask for (docs/scaling.md).

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
