-- Lookups that cost a scrypt (docs/adr/0011). Code of version 0.1 goes on to work on this schema;
-- 0004 ends that.

-- 1: HMAC(pepper, password), 2: from scrypt (iot_cipher.vault.VaultFormat).
ALTER TABLE vaults ADD COLUMN lookup_format smallint NOT NULL DEFAULT 1;
CREATE INDEX vaults_by_lookup ON vaults (lookup_format, scrypt_log2_n);

-- Which lookups a password may be found under. One row: whoever creates a vault locks it, so that no
-- password gets two vaults while formats or costs change.
CREATE TABLE vault_lookups (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    -- Lookups of format 1 are 'created' while processes of version 0.1 may run, then only 'kept',
    -- and 'gone' when no vault has one any more.
    fast_lookups text NOT NULL CHECK (fast_lookups IN ('created', 'kept', 'gone')),
    -- log2 of scrypt's N of the lookups of format 2; new vaults get the last one.
    costs smallint[] NOT NULL DEFAULT '{}',
    changed_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO vault_lookups (fast_lookups)
    SELECT CASE WHEN EXISTS (SELECT FROM vaults) THEN 'created' ELSE 'gone' END;

-- 57P03 tells a client, one of version 0.1 too, that Postgres can't serve it now: it answers 503.
CREATE FUNCTION check_new_vault() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    lookups vault_lookups;
BEGIN
    SELECT * INTO lookups FROM vault_lookups FOR SHARE;
    IF lookups.fast_lookups = 'created' AND NEW.lookup_format = 1 THEN
        RETURN NEW;
    END IF;
    IF lookups.fast_lookups <> 'created' AND NEW.lookup_format = 2
        AND NEW.scrypt_log2_n = lookups.costs[cardinality(lookups.costs)] THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'new vaults have another lookup by now' USING ERRCODE = 'cannot_connect_now';
END
$$;
CREATE TRIGGER check_new_vault BEFORE INSERT ON vaults
    FOR EACH ROW EXECUTE FUNCTION check_new_vault();
