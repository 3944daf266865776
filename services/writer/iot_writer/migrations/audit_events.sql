-- How API processes add to the audit log (iot_stores/audit.py). The file is not part of a revision: it adds to the schema only
-- what earlier versions ignore, and a database that stays at schema 0003 needs the function, too.
DO $$
BEGIN
    IF to_regproc('record_audit_event') IS NOT NULL THEN
        RETURN;
    END IF;

    -- The function runs as the owner: an API process adds records, but does not choose their ids and times, and can't change or
    -- delete a record.
    CREATE FUNCTION record_audit_event(record bytea) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $function$
    BEGIN
        IF octet_length(record) NOT BETWEEN 33 AND 16384 THEN
            RAISE EXCEPTION 'a record of the audit log has % bytes', octet_length(record);
        END IF;
        INSERT INTO audit_log (sealed) VALUES (record);
    END
    $function$;
END
$$;
