-- The end of version 0.1: its processes are not ready on a schema two revisions ahead of theirs, and
-- no lookup of format 1 is created from now on. A writer applies this once old processes have had
-- the time to end (IOT_UPGRADE_AFTER_SECONDS). Nothing but data changes: a writer owns no table.
UPDATE vault_lookups SET fast_lookups = 'kept', changed_at = now() WHERE fast_lookups = 'created';
