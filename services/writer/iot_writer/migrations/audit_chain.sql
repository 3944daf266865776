-- The hash chain of the audit log (iot_stores/audit_chain.py). The file is not part of a revision: it adds to the schema only
-- what earlier versions ignore, and a database that stays at schema 0003 needs the chain, too.
DO $$
BEGIN
    IF to_regclass('audit_chain') IS NOT NULL THEN
        RETURN;
    END IF;

    -- The links. No foreign key: `audit verify` finds deleted records, and a restore must not fail because of them.
    CREATE TABLE audit_chain (
        sequence bigint PRIMARY KEY,
        record_id bigint NOT NULL UNIQUE,
        link bytea NOT NULL
    );

    -- The records that no writer has chained yet.
    CREATE TABLE audit_pending (record_id bigint PRIMARY KEY);

    -- What a writer may read of the audit log. A security barrier, so that no condition of a query sees other records.
    CREATE VIEW audit_unchained WITH (security_barrier) AS
        SELECT id, at, sealed FROM audit_log JOIN audit_pending ON record_id = id
        WHERE NOT EXISTS (SELECT FROM audit_chain WHERE audit_chain.record_id = audit_log.id);

    -- A trigger, because processes of earlier versions insert records, too. It runs as the owner: nobody else can choose
    -- which records are pending.
    CREATE FUNCTION note_pending_audit() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $function$
    BEGIN
        INSERT INTO audit_pending VALUES (NEW.id) ON CONFLICT DO NOTHING;
        RETURN NULL;
    END
    $function$;
    CREATE TRIGGER note_pending_audit AFTER INSERT ON audit_log
        FOR EACH ROW EXECUTE FUNCTION note_pending_audit();

    -- Inserted after the trigger is created, because creating it waits for all transactions that insert records.
    INSERT INTO audit_pending SELECT id FROM audit_log;
END
$$;
