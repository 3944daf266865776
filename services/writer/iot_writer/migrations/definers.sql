-- Sets the search path of functions that run as the owner (SECURITY DEFINER), after each migration. Unless
-- pg_temp is named last, Postgres searches it first: a role could shadow a table that a function reads
-- with a temporary table. The file is not part of a revision, so existing databases get it too. Add each new
-- SECURITY DEFINER function here.
DO $$
DECLARE
    definer record;
BEGIN
    FOR definer IN
        SELECT pg_proc.oid::regprocedure AS signature, nspname AS schema
        FROM pg_proc JOIN pg_namespace ON pg_namespace.oid = pronamespace
        WHERE prosecdef
            AND proname IN (
                'check_new_vault', 'raise_lookup_cost', 'end_fast_lookups', 'forget_unused_lookups',
                'note_pending_audit', 'record_audit_event',
                'erase_vault', 'forget_erased_lookups', 'refuse_erased_vault', 'erase_segments', 'replace_segment'
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
