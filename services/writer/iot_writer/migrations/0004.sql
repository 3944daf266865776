-- The end of version 0.1: its processes are not ready on a schema two revisions ahead of theirs, and
-- no lookup of format 1 is created. A database with vaults of that version gets this revision through
-- `end_fast_lookups` (0003), other databases at once.
UPDATE vault_lookups SET fast_lookups = 'kept', changed_at = now() WHERE fast_lookups = 'created';
