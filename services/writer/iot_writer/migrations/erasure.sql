-- Erasure of vaults (iot_stores/erasures.py). Like audit_chain.sql, the file is not part of a revision: it adds to the schema
-- only what earlier versions ignore.
DO $$
BEGIN
    IF to_regclass('erased_vaults') IS NOT NULL THEN
        RETURN;
    END IF;

    -- Tombstones. They are never deleted: a backup of Redis of any age may bring entries or records of a vault back.
    CREATE TABLE erased_vaults (
        vault_id uuid PRIMARY KEY,
        erased_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        -- The lookups under which Redis may have a record. NULL once an API process has removed the records.
        lookups bytea[],
        -- Whether all segments are deleted that existed when the vault was erased.
        noted boolean NOT NULL DEFAULT false,
        -- When a writer deleted all data for the second time, when no process could add data any more.
        deleted_at timestamptz
    );
    CREATE INDEX erased_vaults_unfinished ON erased_vaults (erased_at) WHERE deleted_at IS NULL;
    CREATE INDEX erased_vaults_cached ON erased_vaults (erased_at) WHERE lookups IS NOT NULL;

    -- Erases a vault that has one of these lookups. Returns 'erased', 'repeated' or 'unknown'.
    -- The DELETE waits for drains and compactions of the vault, which lock its row (FOR KEY SHARE). After the commit they
    -- find no row. Writers of version 0.1 do not lock the row, so no vault is erased while they may run.
    CREATE FUNCTION erase_vault(erased uuid, known_lookups bytea[]) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $function$
    BEGIN
        IF EXISTS (SELECT FROM vault_lookups WHERE fast_lookups = 'created') THEN
            RAISE EXCEPTION 'processes of version 0.1 may run' USING ERRCODE = 'lock_not_available';
        END IF;
        DELETE FROM vaults WHERE vault_id = erased AND lookup = ANY (known_lookups);
        IF NOT FOUND THEN
            RETURN CASE WHEN EXISTS (SELECT FROM erased_vaults WHERE vault_id = erased)
                THEN 'repeated' ELSE 'unknown' END;
        END IF;
        INSERT INTO erased_vaults (vault_id, lookups) VALUES (erased, known_lookups);
        RETURN 'erased';
    END
    $function$;

    CREATE FUNCTION forget_erased_lookups(erased uuid) RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT AS $function$
        UPDATE erased_vaults SET lookups = NULL WHERE vault_id = erased;
    $function$;

    -- A process that has the record of an erased vault must not restore the vault. AFTER: an insert that waits for the
    -- erasure's commit sees the tombstone only then. Processes of earlier versions answer 57P03 with 503.
    CREATE FUNCTION refuse_erased_vault() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $function$
    BEGIN
        IF EXISTS (SELECT FROM erased_vaults WHERE vault_id = NEW.vault_id) THEN
            RAISE EXCEPTION 'the vault was erased'
                USING ERRCODE = 'cannot_connect_now', CONSTRAINT = 'erased_vaults';
        END IF;
        RETURN NULL;
    END
    $function$;
    CREATE TRIGGER refuse_erased_vault AFTER INSERT ON vaults
        FOR EACH ROW EXECUTE FUNCTION refuse_erased_vault();
END
$$;

-- Erasure of ranges (iot_stores/segment_erasure.py). If API and writers have separate roles, grants.sql makes the role `iot_eraser`
-- the owner of these functions: triggers and constraints that writers attach to `segments` run with the rights of the owner.
DO $$
BEGIN
    IF to_regproc('erase_segments') IS NOT NULL THEN
        RETURN;
    END IF;

    -- Deletes segments of a vault by their keys and salts. Returns the number of segments and of readings that were deleted. A
    -- segment that was merged or replaced meanwhile has another salt, or is gone. Nothing is deleted if the vault is erased.
    CREATE FUNCTION erase_segments(
        of_vault uuid, first_ids bigint[], received_mins bigint[], salts bytea[],
        OUT segments_erased bigint, OUT readings_erased bigint
    )
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $function$
    DECLARE
        erased integer;
    BEGIN
        segments_erased := 0;
        readings_erased := 0;
        PERFORM FROM vaults WHERE vault_id = of_vault FOR KEY SHARE;
        IF NOT FOUND THEN
            RETURN;
        END IF;
        FOR place IN 1 .. cardinality(first_ids) LOOP
            DELETE FROM segments
                WHERE vault_id = of_vault AND first_id = first_ids[place] AND received_min = received_mins[place]
                AND substring(payload FROM 2 FOR 16) = salts[place]
                RETURNING count INTO erased;
            IF FOUND THEN
                segments_erased := segments_erased + 1;
                readings_erased := readings_erased + erased;
            END IF;
        END LOOP;
    END
    $function$;

    -- Replaces a segment of a vault by one with a part of its readings. Returns false if the segment was merged or replaced
    -- meanwhile. `bounds`: first_id, last_id, received_min, received_max, relative_min, relative_max, interrogator_min,
    -- interrogator_max, shard, count.
    CREATE FUNCTION replace_segment(
        of_vault uuid, old_first_id bigint, old_received_min bigint, old_salt bytea,
        bounds bigint[], new_payload bytea
    ) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $function$
    DECLARE
        deleted bigint;
    BEGIN
        SELECT segments_erased INTO deleted
            FROM erase_segments(of_vault, ARRAY[old_first_id], ARRAY[old_received_min], ARRAY[old_salt]);
        IF deleted = 0 THEN
            RETURN false;
        END IF;
        INSERT INTO segments (
            vault_id, first_id, last_id, received_min, received_max, relative_min, relative_max,
            interrogator_min, interrogator_max, shard, count, payload
        ) VALUES (
            of_vault, bounds[1], bounds[2], bounds[3], bounds[4], bounds[5], bounds[6], bounds[7], bounds[8],
            bounds[9], bounds[10], new_payload
        );
        RETURN true;
    END
    $function$;
END
$$;
