-- The search path of functions that run as the owner (SECURITY DEFINER), after each migration. Unless
-- pg_temp is named last, Postgres looks there first: a role could put a temporary table in the place
-- of one that a function reads. Not in a migration, so that databases that are migrated already get it
-- too. A new function of this kind gets its name here.
DO $$
DECLARE
    definer record;
BEGIN
    FOR definer IN
        SELECT pg_proc.oid::regprocedure AS signature, nspname AS schema
        FROM pg_proc JOIN pg_namespace ON pg_namespace.oid = pronamespace
        WHERE prosecdef
            AND proname IN (
                'check_new_vault', 'raise_lookup_cost', 'end_fast_lookups', 'forget_unused_lookups'
            )
            AND pronamespace = (
                SELECT relnamespace FROM pg_class WHERE oid = to_regclass('vault_lookups')
            )
            AND format('search_path=%I, pg_temp', nspname) <> ALL (coalesce(proconfig, '{}'))
    LOOP
        EXECUTE format(
            'ALTER FUNCTION %s SET search_path = %I, pg_temp', definer.signature, definer.schema
        );
    END LOOP;
END
$$;
