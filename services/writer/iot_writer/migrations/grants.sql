-- The rights of the roles of charts/iot-sensor/production/postgres-roles.sql on the tables. `iot-sensor migrate --grant`
-- runs this file in the transaction of the migration. Add a line for each new table or column.
-- The file also runs on the schema OLDEST_REVISION, so grant rights on what newer revisions add only if it exists (to_regclass).

-- `segments` and its partitions belong to the writers, which create, drop and reindex partitions. A role can become the owner
-- of a table in `public` only while that role may create tables there.
GRANT CREATE ON SCHEMA public TO iot_writer;
DO $$
DECLARE
    owned regclass;
BEGIN
    -- After `pg_restore --no-owner`, the schema belongs to the role of the migration, or is missing if the dump has one role.
    IF to_regnamespace('iot_writer') IS NULL THEN
        CREATE SCHEMA iot_writer;
    END IF;
    ALTER SCHEMA iot_writer OWNER TO iot_writer;
    FOR owned IN
        SELECT pg_class.oid::regclass FROM pg_class
        WHERE relowner <> 'iot_writer'::regrole AND (
            pg_class.oid = 'segments'::regclass
            OR pg_class.oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'segments'::regclass)
        )
    LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO iot_writer', owned);
    END LOOP;
END
$$;
-- Functions of API processes that write segments. The writers own the table and can attach triggers and constraints to it, whose
-- expressions run with the rights of the functions' owner. If the writers owned the functions, they could also make them run
-- with the rights of the caller (ALTER FUNCTION ... SECURITY INVOKER). So the owner is a role with no more rights than these
-- functions need. If this role is missing, because postgres-roles.sql of an earlier version was run, the writers stay the owner.
DO $$
DECLARE
    eraser name := coalesce(to_regrole('iot_eraser')::text, 'iot_writer');
BEGIN
    EXECUTE format('GRANT CREATE ON SCHEMA public TO %I', eraser);
    EXECUTE format(
        'ALTER FUNCTION erase_segments(uuid, bigint[], bigint[], bytea[]) OWNER TO %I', eraser
    );
    EXECUTE format(
        'ALTER FUNCTION replace_segment(uuid, bigint, bigint, bytea, bigint[], bytea) OWNER TO %I', eraser
    );
    EXECUTE format('REVOKE CREATE ON SCHEMA public FROM %I', eraser);
    IF eraser = 'iot_eraser' THEN
        -- Not in postgres-roles.sql: roles belong to the server, so another database may have created this role.
        GRANT USAGE ON SCHEMA public TO iot_eraser;
        REVOKE ALL ON segments, vaults FROM iot_eraser;
        GRANT SELECT, INSERT, DELETE ON segments TO iot_eraser;
        GRANT SELECT (vault_id), UPDATE (created_at) ON vaults TO iot_eraser;
    ELSE
        RAISE WARNING 'the role iot_eraser is missing: run postgres-roles.sql again, and then this migration';
    END IF;
END
$$;
-- Undo what a writer may have altered while the writers owned the functions.
ALTER FUNCTION erase_segments(uuid, bigint[], bigint[], bytea[]) SECURITY DEFINER SET search_path = public, pg_temp;
ALTER FUNCTION replace_segment(uuid, bigint, bigint, bytea, bigint[], bytea) SECURITY DEFINER SET search_path = public, pg_temp;
REVOKE CREATE ON SCHEMA public FROM iot_writer;
REVOKE EXECUTE ON FUNCTION
    erase_segments(uuid, bigint[], bigint[], bytea[]), replace_segment(uuid, bigint, bigint, bytea, bigint[], bytea)
    FROM PUBLIC, iot_api;
GRANT EXECUTE ON FUNCTION
    erase_segments(uuid, bigint[], bigint[], bytea[]), replace_segment(uuid, bigint, bigint, bytea, bigint[], bytea)
    TO iot_api;

REVOKE ALL ON
    vaults, vault_lookups, segments, ingest_offsets, ingest_sessions, audit_log, installation, alembic_version,
    audit_chain, audit_pending, audit_unchained, erased_vaults
    FROM iot_api;
REVOKE ALL ON
    vaults, vault_lookups, ingest_offsets, ingest_sessions, audit_log, installation, alembic_version,
    audit_chain, audit_pending, audit_unchained, erased_vaults
    FROM iot_writer;

GRANT SELECT ON alembic_version, installation TO iot_api, iot_writer;
-- The API marks the database with its keyring, once.
GRANT UPDATE (keyring) ON installation TO iot_api;

-- Not the id: an UPDATE of it could bring back an erased vault, because the trigger refuse_erased_vault checks inserts.
GRANT SELECT, INSERT, UPDATE (lookup, salt, scrypt_log2_n, wrapped_key, lookup_format) ON vaults TO iot_api;
-- Compaction locks a vault's row (FOR KEY SHARE), for which one column must be writable.
GRANT SELECT (vault_id), UPDATE (created_at) ON vaults TO iot_writer;

-- Only functions that run as the owner change `vault_lookups`, and they never reverse a step.
GRANT SELECT ON vault_lookups TO iot_api;
REVOKE EXECUTE ON FUNCTION
    check_new_vault(), raise_lookup_cost(smallint), end_fast_lookups(interval), forget_unused_lookups(),
    note_pending_audit(), record_audit_event(bytea),
    erase_vault(uuid, bytea[]), forget_erased_lookups(uuid), refuse_erased_vault()
    FROM PUBLIC, iot_api, iot_writer;
GRANT EXECUTE ON FUNCTION raise_lookup_cost(smallint) TO iot_api;
GRANT EXECUTE ON FUNCTION end_fast_lookups(interval), forget_unused_lookups() TO iot_writer;

-- Partitions are read through `segments`, and need no grants.
GRANT SELECT ON segments TO iot_api;

GRANT SELECT, INSERT, UPDATE ON ingest_offsets TO iot_writer;
GRANT SELECT ON ingest_sessions TO iot_api;
GRANT SELECT, INSERT, UPDATE, DELETE ON ingest_sessions TO iot_writer;

-- The API adds records with a function that runs as the owner.
GRANT SELECT ON audit_log TO iot_api;
GRANT EXECUTE ON FUNCTION record_audit_event(bytea) TO iot_api;
GRANT INSERT (sealed) ON audit_log TO iot_writer;

-- Writers append links, and read only the records that have none. Nobody may change a link.
GRANT SELECT ON audit_chain, audit_pending TO iot_api;
GRANT SELECT, INSERT ON audit_chain TO iot_writer;
GRANT SELECT, DELETE ON audit_pending TO iot_writer;
GRANT SELECT ON audit_unchained TO iot_writer;

-- The API erases vaults through a function. Writers read the tombstones without the lookups, and note what they have deleted.
GRANT SELECT (vault_id, erased_at, lookups) ON erased_vaults TO iot_api;
GRANT EXECUTE ON FUNCTION erase_vault(uuid, bytea[]), forget_erased_lookups(uuid) TO iot_api;
GRANT SELECT (vault_id, erased_at, noted, deleted_at), UPDATE (noted, deleted_at) ON erased_vaults TO iot_writer;
