-- Lookups that cost a scrypt (docs/adr/0011). Version 0.1 works on this schema, and no longer on 0004.

-- 1: HMAC(pepper, password), 2: from scrypt (iot_cipher.vault.VaultFormat).
ALTER TABLE vaults ADD COLUMN lookup_format smallint NOT NULL DEFAULT 1;
CREATE INDEX vaults_by_lookup ON vaults (lookup_format, scrypt_log2_n);

-- The lookups under which a password may be found. One row: the creation of a vault locks it, so that no
-- password gets two vaults while formats or costs change.
CREATE TABLE vault_lookups (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    -- Lookups of format 1 are 'created' while processes of version 0.1 may run. After that they are
    -- only 'kept', and 'gone' when no vault has one.
    fast_lookups text NOT NULL CHECK (fast_lookups IN ('created', 'kept', 'gone')),
    -- The scrypt costs (log2 of N) of the lookups of format 2; new vaults get the last cost.
    costs smallint[] NOT NULL DEFAULT '{}',
    changed_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO vault_lookups (fast_lookups)
    SELECT CASE WHEN EXISTS (SELECT FROM vaults) THEN 'created' ELSE 'gone' END;

-- 57P03 means that Postgres can't serve now. API processes, also those of version 0.1, answer it with 503.
CREATE FUNCTION check_new_vault() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
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
-- The trigger also checks a vault that moves: the cost to which an API process moves it may have been removed meanwhile,
-- and then no process would look for the vault there.
CREATE TRIGGER check_new_vault BEFORE INSERT OR UPDATE OF lookup ON vaults
    FOR EACH ROW EXECUTE FUNCTION check_new_vault();

-- Changes that processes may make, even under an attacker's control: costs rise, and no step is reversed.

CREATE FUNCTION raise_lookup_cost(cost smallint) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT AS $$
    UPDATE vault_lookups SET costs = costs || cost
    WHERE fast_lookups <> 'created' AND coalesce(costs[cardinality(costs)], 0) < cost;
$$;

-- The end of an upgrade from version 0.1: schema 0004, if the row is as old as `after`.
CREATE FUNCTION end_fast_lookups(after interval) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    UPDATE vault_lookups SET fast_lookups = 'kept', changed_at = now()
        WHERE fast_lookups = 'created' AND changed_at <= now() - after;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE alembic_version SET version_num = '0004' WHERE version_num = '0003';
    RETURN true;
END
$$;

-- Removes costs that no vault has, so that processes do not compute their lookups in vain.
CREATE FUNCTION forget_unused_lookups() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM FROM vault_lookups FOR UPDATE;  -- the next statement sees every vault created before
    UPDATE vault_lookups SET
        fast_lookups = CASE
            WHEN fast_lookups = 'kept' AND NOT EXISTS (SELECT FROM vaults WHERE lookup_format = 1)
            THEN 'gone' ELSE fast_lookups END,
        costs = ARRAY(
            SELECT cost FROM unnest(costs) WITH ORDINALITY AS listed (cost, place)
            WHERE place = cardinality(costs) OR EXISTS (
                SELECT FROM vaults WHERE lookup_format = 2 AND scrypt_log2_n = cost)
            ORDER BY place);
END
$$;
