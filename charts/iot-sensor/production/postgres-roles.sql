-- The roles of the API, the writers and the migration, each with no more rights than it needs.
--
-- An administrator runs this in the service's own database, before the first migration and when CHANGELOG.md says so. After
-- the first run, the administrator sets the passwords:
--   psql "$DATABASE_URL" --set ON_ERROR_STOP=1 --single-transaction --file postgres-roles.sql
--   psql "$DATABASE_URL" --command '\password iot_api'     (and so for iot_writer and iot_migration)
-- A further run keeps the passwords and adds what is missing. The rights on tables are in iot_writer/migrations/grants.sql, which
-- `iot-sensor migrate --grant` (in the chart: migrations.grant) runs after each migration.
--
-- For an installation whose tables belong to another role, hand them over first:
--   REASSIGN OWNED BY iot_sensor TO iot_migration;
--
-- The administrator is a superuser, or (managed Postgres) owns the database and has CREATEROLE. For an administrator
-- who is not a superuser, REVOKE ... ON LANGUAGE (below) only warns.

DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['iot_api', 'iot_writer', 'iot_migration'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('CREATE ROLE %I LOGIN', role);
        END IF;
    END LOOP;
    -- Owns the functions with which API processes erase and replace segments. No process logs in as this role.
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'iot_eraser') THEN
        CREATE ROLE iot_eraser NOLOGIN;
    END IF;
    -- Only a member of a role can make this role the owner of an object. A superuser needs no membership.
    IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        GRANT iot_migration, iot_writer TO CURRENT_USER;
    END IF;
    EXECUTE format('ALTER DATABASE %I OWNER TO iot_migration', current_database());
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO iot_api, iot_writer', current_database());
END
$$;

-- The migration alters and indexes `segments`, which belongs to the writers, and makes `iot_eraser` the owner of functions.
GRANT iot_writer, iot_eraser TO iot_migration;

REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT ALL ON SCHEMA public TO iot_migration WITH GRANT OPTION;
GRANT USAGE ON SCHEMA public TO iot_api, iot_writer;

-- Writers create their partitions in a separate schema. In `public`, a writer under an attacker's control could create
-- a function that shadows one of Postgres, and the API would call it.
CREATE SCHEMA IF NOT EXISTS iot_writer AUTHORIZATION iot_writer;
ALTER ROLE iot_writer SET search_path = iot_writer, public;
ALTER ROLE iot_api SET search_path = public;
ALTER ROLE iot_migration SET search_path = public;

-- The owner of a table can attach expressions to it (policies, constraints) that Postgres evaluates with the rights of
-- the reader. So policies are off for the API, and a writer can create no function to put into a constraint. If the
-- administrator is not a superuser, the REVOKE only warns: a writer under an attacker's control can then read `vaults`
-- through the API.
ALTER ROLE iot_api SET row_security = off;
ALTER ROLE iot_migration SET row_security = off;
REVOKE USAGE ON LANGUAGE sql, plpgsql FROM PUBLIC;
GRANT USAGE ON LANGUAGE sql, plpgsql TO iot_migration;

-- A transaction that hangs keeps rows locked and blocks VACUUM. Writers set a statement_timeout for their drains
-- themselves; the rebuild of an index may take hours.
ALTER ROLE iot_api SET statement_timeout = '30s';
ALTER ROLE iot_api SET lock_timeout = '5s';
ALTER ROLE iot_api SET idle_in_transaction_session_timeout = '10s';
ALTER ROLE iot_writer SET idle_in_transaction_session_timeout = '10s';
DO $$
BEGIN
    IF current_setting('server_version_num')::int >= 170000 THEN
        ALTER ROLE iot_api SET transaction_timeout = '5min';
    END IF;
END
$$;
