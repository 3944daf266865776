-- Warn of objects that an attacker with the writers' role may have left: tables in the schema `iot_writer` come before tables of
-- `public` for all writers, and expressions that belong to `segments` run in the sessions of other roles. `iot-sensor migrate
-- --grant` runs this file after grants.sql.
DO $$
DECLARE
    own oid := to_regnamespace('iot_writer')::oid;
    history oid[] := ARRAY(
        SELECT relid::oid FROM pg_partition_tree('segments') WHERE level <= 1
    );
    planted text;
BEGIN
    SELECT string_agg(name, ', ' ORDER BY name) INTO planted FROM (
        SELECT 'relation ' || pg_class.oid::regclass FROM pg_class
            WHERE relnamespace = own AND relkind NOT IN ('i', 'I') AND pg_class.oid <> ALL (history)
        UNION ALL SELECT 'function ' || pg_proc.oid::regprocedure FROM pg_proc WHERE pronamespace = own
        UNION ALL SELECT 'operator ' || pg_operator.oid::regoperator FROM pg_operator WHERE oprnamespace = own
        UNION ALL SELECT 'type ' || pg_type.oid::regtype FROM pg_type
            WHERE typnamespace = own AND typrelid = 0 AND typcategory <> 'A'
        UNION ALL SELECT 'trigger ' || quote_ident(tgname) || ' on ' || tgrelid::regclass FROM pg_trigger
            WHERE tgrelid = ANY (history) AND NOT tgisinternal AND tgparentid = 0
        UNION ALL SELECT 'policy ' || quote_ident(polname) || ' on ' || polrelid::regclass FROM pg_policy
            WHERE polrelid = ANY (history)
        UNION ALL SELECT 'rule ' || quote_ident(rulename) || ' on ' || ev_class::regclass FROM pg_rewrite
            WHERE ev_class = ANY (history)
        UNION ALL SELECT 'constraint ' || quote_ident(conname) || ' of ' || conrelid::regclass FROM pg_constraint
            WHERE (conrelid = ANY (history) OR confrelid = ANY (history)) AND contype NOT IN ('p', 'n') AND conislocal AND conparentid = 0
        UNION ALL SELECT 'default of ' || quote_ident(attname) || ' of ' || adrelid::regclass FROM pg_attrdef
            JOIN pg_attribute ON attrelid = adrelid AND attnum = adnum
            WHERE adrelid = ANY (history)
    ) AS found (name);
    IF planted IS NOT NULL THEN
        RAISE WARNING 'objects that no writer creates, see docs/runbooks.md, A writer that was taken over: %',
            left(regexp_replace(planted, '[^[:print:]]', '?', 'g'), 2000);
    END IF;
END
$$;
