"""The documented commands back up Postgres, restore it on a new server, and delete everything."""

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from redis import Redis

from iot_stores.months import DAY_MS
from iot_tools.local.postgres_server import PostgresServer, binaries
from iot_writer.maintenance.partitions import ensure_months_ahead
from support.code_blocks import ROOT, code_blocks, run_script
from support.databases import database_url
from support.stack import Stack
from support.waiting import wait_until
from system.rights.stores import Database, command

SEARCH_PATH = f"{binaries()}:{os.environ['PATH']}"
JSON = {"Content-Type": "application/json"}
ROLES_OF = {"superuser": "LOGIN SUPERUSER", "managed": "LOGIN CREATEDB CREATEROLE"}
# Who owns what, and who may do what. PUBLIC has the number 0.
RIGHTS = """
    SELECT nspname || '.' || relname AS object, relowner AS owner, relacl AS acl
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE nspname IN ('public', 'iot_writer')
    UNION ALL SELECT pg_proc.oid::regprocedure::text, proowner, proacl
    FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    UNION ALL SELECT attrelid::regclass || '.' || attname, 0, attacl
    FROM pg_attribute WHERE attacl IS NOT NULL AND attrelid > 16384
    UNION ALL SELECT nspname, nspowner, nspacl FROM pg_namespace
    WHERE nspname IN ('public', 'iot_writer')
"""
NAMED_RIGHTS = f"""
    SELECT object, owner::regrole::text, array(
        SELECT grantee::regrole || ' ' || privilege_type FROM aclexplode(acl) ORDER BY 1
    ) FROM ({RIGHTS}) AS rights ORDER BY object
"""  # noqa: S608 -- a constant

pytestmark = pytest.mark.skipif(
    not all(shutil.which(name, path=SEARCH_PATH) for name in ("psql", "pg_dump", "pg_restore")),
    reason="psql, pg_dump or pg_restore is not installed",
)


DOCUMENTS = ("docs/backup.md", "docs/operations.md", "docs/stores.md")


def documented_block(part: str) -> str:
    """Return the one block of documented commands that contains a text."""
    (found,) = (
        each.text
        for each in code_blocks("console")
        if each.document in DOCUMENTS and part in each.text
    )
    return found


@dataclass(frozen=True)
class Installation:
    """A Postgres server with the service's database, and the commands that an engineer runs."""

    server: PostgresServer
    owner: str
    """The owner of the tables: iot_migration, or the only role."""
    directory: Path
    """The directory of the files."""

    @property
    def database(self) -> Database:
        """The service's database."""
        return Database(database_url(self.server.url, "iot_sensor"))

    def url(self, role: str) -> str:
        """Return the URL of a role; with one role, of this role."""
        return self.database.url(role if self.owner == "iot_migration" else self.owner)

    def run(self, script: str) -> str:
        """Run commands of the documentation and return their output."""
        variables = {
            "PATH": SEARCH_PATH,
            "ADMIN_URL": Database(self.server.url).url("administrator"),
            "DATABASE_URL": self.database.url("administrator"),
            "POSTGRES_URL": self.url("iot_migration"),
        }
        return run_script(script, self.directory, variables, typed="a password\n" * 2)

    def create(self) -> None:
        """Create the database and the roles, as the section *Install* says."""
        create = documented_block("CREATE DATABASE")
        if self.owner == "iot_migration":
            self.run(create)
            self.run(documented_block("production/postgres-roles.sql"))
        else:
            self.run(create.replace("iot_sensor'", f"iot_sensor OWNER {self.owner}'"))

    def migrate(self, environment: dict[str, str]) -> None:
        """Migrate as the Job of the chart does."""
        grant = ["--grant"] if self.owner == "iot_migration" else []
        command({**environment, "IOT_POSTGRES_URL": self.url("iot_migration")}, "migrate", *grant)

    def rights(self) -> list[tuple[object, ...]]:
        """Return the owner and the rights of every table, column, function and schema."""
        with self.database.connect("postgres") as connection:
            return connection.execute(NAMED_RIGHTS.encode()).fetchall()


@pytest.fixture(params=["one role", "superuser", "managed"])
def new_installation(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Callable[[], Installation]]:
    """Return a function that makes a new server, with one role or with an administrator."""
    setup = str(request.param)
    (tmp_path / "charts").symlink_to(ROOT / "charts")
    with ExitStack() as stack:

        def make() -> Installation:
            number = len(list(tmp_path.glob("postgres*")))
            server = PostgresServer(tmp_path / f"postgres{number}", settings={"fsync": "off"})
            stack.callback(server.stop)
            server.start()
            with psycopg.connect(server.url, autocommit=True) as postgres:
                rights = ROLES_OF.get(setup, ROLES_OF["superuser"])
                postgres.execute(f"CREATE ROLE administrator {rights}".encode())
                if setup == "one role":
                    postgres.execute("CREATE ROLE iot_sensor LOGIN")
            owner = "iot_sensor" if setup == "one role" else "iot_migration"
            made = Installation(server, owner, tmp_path)
            made.create()
            return made

        yield make


@pytest.fixture
def serve(
    redis_url: str, rights_environment: dict[str, str], tmp_path: Path
) -> Iterator[Callable[[Installation], Stack]]:
    """Return a function that runs the service on an installation and an empty Redis."""
    with ExitStack() as stack:

        def start(installation: Installation) -> Stack:
            with Redis.from_url(redis_url) as redis:
                redis.flushall()
            api = {"IOT_POSTGRES_URL": installation.url("iot_api"), "IOT_REDIS_URL": redis_url}
            started = Stack({**rights_environment, **api}, tmp_path)
            started.writer_environment = {"IOT_POSTGRES_URL": installation.url("iot_writer")}
            stack.callback(started.stop)
            started.start_api()
            started.start_writer()
            return started

        yield start


def erase(stack: Stack, password: str) -> None:
    """Erase a vault over HTTP."""
    body = json.dumps({"data": {"db_password": password}})
    answer = stack.request("DELETE", "/api/vault", body, JSON)
    assert answer.status == 200, answer


def test_a_documented_restore_brings_everything_back(
    new_installation: Callable[[], Installation],
    serve: Callable[[Installation], Stack],
    rights_environment: dict[str, str],
) -> None:
    """The restored readings can be read, erased ones stay erased, and roles have their rights."""
    old = new_installation()
    old.migrate(rights_environment)
    stack = serve(old)
    for password in ("kept", "erased"):
        assert stack.put({"data": {"db_password": password, "freeform": 1}}).status == 201
        wait_until(lambda: stack.read(password), what="the reading")  # noqa: B023 -- runs at once
    old.run(documented_block("pg_dump"))
    rights = old.rights()
    erase(stack, "erased")
    old.run(documented_block("TO erased.csv"))
    stack.stop()

    new = new_installation()
    new.run(documented_block("pg_restore"))
    new.run(documented_block("FROM erased.csv"))
    new.migrate(rights_environment)
    assert new.rights() == rights
    stack = serve(new)
    assert [row["freeform"] for row in stack.read("kept")] == ["1"]
    assert stack.read("erased") == []
    with psycopg.connect(new.url("iot_writer"), autocommit=True) as writer:
        assert ensure_months_ahead(writer, int(time.time() * 1000) + 100 * DAY_MS) > 0
    new.migrate(rights_environment)
    assert stack.put({"data": {"db_password": "kept", "freeform": 2}}).status == 201
    wait_until(lambda: len(stack.read("kept")) == 2, what="the new reading")
    stack.stop()
    check_teardown(new)


def check_teardown(installation: Installation) -> None:
    """Delete everything as the section *Teardown* says."""
    commands = re.findall(r"^psql .*", documented_block("DROP DATABASE"), re.MULTILINE)
    installation.run("\n".join(commands))
    with psycopg.connect(installation.server.url) as connection:
        left = connection.execute("SELECT FROM pg_database WHERE datname = 'iot_sensor'")
        assert left.fetchall() == []
        roles = connection.execute("SELECT rolname FROM pg_roles WHERE rolname ~ '^iot_[aemw]'")
        assert roles.fetchall() == []
