-- A password's vault. It is found by HMAC(pepper, password); its key is wrapped twice.
CREATE TABLE vaults (
    vault_id uuid PRIMARY KEY,
    lookup bytea NOT NULL UNIQUE,
    salt bytea NOT NULL,
    scrypt_log2_n smallint NOT NULL,
    wrapped_key bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- The history. A row is a batch of one vault's readings, encrypted as one message. Times of
-- receipt are Unix milliseconds, other times are microseconds of the sender's clock. A segment lies
-- within one month of receipt, and each month is a partition.
CREATE TABLE segments (
    vault_id uuid NOT NULL,
    first_id bigint NOT NULL,
    last_id bigint NOT NULL,
    received_min bigint NOT NULL,
    received_max bigint NOT NULL,
    relative_min bigint NOT NULL,
    relative_max bigint NOT NULL,
    interrogator_min bigint NOT NULL,
    interrogator_max bigint NOT NULL,
    shard smallint NOT NULL,
    count integer NOT NULL,
    payload bytea NOT NULL,
    PRIMARY KEY (vault_id, first_id, received_min)
) PARTITION BY RANGE (received_min);

-- Ciphertext does not compress.
ALTER TABLE segments ALTER COLUMN payload SET STORAGE EXTERNAL;

-- Indexes for these reads: all readings in order, the last n, a window of relative time, the last
-- seconds, maxtime.
CREATE INDEX segments_in_order ON segments (vault_id, interrogator_min, first_id);
CREATE INDEX segments_latest ON segments (vault_id, interrogator_max, last_id);
CREATE INDEX segments_by_relative ON segments (vault_id, relative_max);
CREATE INDEX segments_by_received ON segments (vault_id, received_max);
CREATE INDEX segments_maxtime ON segments (relative_max);

-- The position of each shard. A drain locks the row of its shard.
CREATE TABLE ingest_offsets (
    shard smallint PRIMARY KEY,
    shards smallint NOT NULL,
    position text NOT NULL,
    received_max bigint NOT NULL,
    next_id bigint NOT NULL,
    moved_at timestamptz NOT NULL DEFAULT now()
);

-- The entries of each session that are stored: all up to `high`, except `missing`.
CREATE TABLE ingest_sessions (
    shard smallint NOT NULL,
    session bytea NOT NULL,
    high bigint NOT NULL,
    missing bigint[] NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (shard, session)
);
CREATE INDEX ingest_sessions_seen ON ingest_sessions (seen_at);

-- The audit log. Each record is encrypted with the audit key.
CREATE TABLE audit_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    sealed bytea NOT NULL
);
