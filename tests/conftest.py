"""A real Redis and a real Postgres for the tests, empty at the start of each test."""

import argparse
import gc
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import psycopg
import pytest
from execnet import XSpec
from flask.testing import FlaskClient
from hypothesis import settings as hypothesis_settings
from redis import Redis
from redis import utils as redis_utils
from werkzeug.routing import Rule

from integration.compaction.past import Past
from integration.writer.sending import Sender, sending
from iot_api.app import create_app
from iot_cipher.keyring import create_keyring_file
from iot_models.settings import Settings, load
from iot_tools.local.postgres_server import PostgresServer
from iot_tools.local.redis_server import RedisServer
from iot_writer.schema import migrate
from iot_writer.writer import Writer
from support.databases import TEMPLATE, EmptyDatabases, created_database, database_url
from support.environment import environment_without_settings
from support.forked_workers import fork_workers
from support.longest_first import LongestFirst, rank
from support.memory_folder import memory_folder
from support.postgres_data import copied_data, run_folder
from support.stack import Stack, running_stack

_NO_BYTECODE = "PYTHONDONTWRITEBYTECODE"

# libpq's variables would select another database, and proxy variables would break requests.
# Without bytecode, processes take twice as long to start.
for _name in list(os.environ):
    if _name.startswith("PG") or _name.lower().endswith("_proxy") or _name == _NO_BYTECODE:
        del os.environ[_name]

# A shell ignores SIGINT in its background jobs, and the processes of the tests would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# At its import, jsonschema would compile 38 grammars, for formats that no schema here names: 2 s.
sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]
gc.disable()  # importing the tests makes no garbage, and collections take a fifth of its time

hypothesis_settings.register_profile("fast", max_examples=60, deadline=None, derandomize=True)
hypothesis_settings.register_profile("deep", max_examples=2000, deadline=None)
hypothesis_settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))


def _mutations(text: str) -> int:
    """Refuse a number so low that mutations may by chance make nearly every request invalid."""
    if int(text) < 100:
        raise argparse.ArgumentTypeError(f"must be at least 100, not {text}")
    return int(text)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of `make test`, `make test-all` and `make parser-test`."""
    parser.addoption(
        "--parser-mutations", type=_mutations, default=4000, help="requests to mutate, at least 100"
    )
    parser.addoption("--parser-seed", type=int, default=1, help="seed of the mutations")
    parser.addoption(
        "--chart-values",
        choices=["all", "few"],
        default="all",
        help="sets of values that tests/chart renders the chart with",
    )
    parser.addoption(
        "--waiting-process",
        action="store_true",
        help="begin with the tests that mostly wait in the last process of pytest-xdist",
    )


def pytest_report_header(config: pytest.Config) -> str | None:
    """Report that the chart is not rendered with all sets of values."""
    if config.getoption("chart_values") == "all":
        return None
    return "chart: a few sets of values; make test-all renders all of them"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the slowest files first."""
    items.sort(key=lambda item: rank(item.nodeid))


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Let no garbage collection visit the collected tests: there are a million objects."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config, specs: list[XSpec]) -> None:
    """Fork the processes of pytest-xdist."""
    fork_workers(config, specs)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LongestFirst:
    """Schedule the tests of pytest-xdist in that order."""
    config.option.loadscopereorder = False
    return LongestFirst(config, log)


@pytest.fixture(scope="session", autouse=True)
def one_version_of_redis() -> Iterator[None]:
    """Look up the version of redis-py once, not for each connection, which takes 0.4 ms."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(redis_utils, "get_lib_version", cache(redis_utils.get_lib_version))
        yield


@pytest.fixture(scope="session", autouse=True)
def no_url_builders() -> Iterator[None]:
    """Compile no builders of URLs, which take half of the time to make an app."""

    def build(*_: object) -> None:
        raise AssertionError("the API builds a URL: remove the fixture no_url_builders")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rule, "_compile_builder", lambda *_: build)
        yield


@pytest.fixture(scope="session", autouse=True)
def one_initdb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Run initdb once for all Postgres servers of the run."""
    with copied_data(run_folder(tmp_path_factory) / "postgres-data"):
        yield


@pytest.fixture(scope="session")
def server_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for the data of the servers of the whole run."""
    with memory_folder(tmp_path_factory.mktemp("servers")) as made:
        yield made


@pytest.fixture(scope="session")
def redis_server(
    server_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RedisServer]:
    """A Redis for the whole run."""
    log = tmp_path_factory.mktemp("redis") / "redis.log"
    server = RedisServer(server_folder / "redis", log=log)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres_server(
    server_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PostgresServer]:
    """A PostgreSQL for the whole run, with a migrated database to clone."""
    # Tests need no durability, and take half the time without fsync. Autovacuum would hold row
    # versions at any time, which tests of costs count.
    settings = {"fsync": "off", "autovacuum": "off"}
    log = tmp_path_factory.mktemp("postgres") / "postgres.log"
    server = PostgresServer(server_folder / "postgres", settings=settings, log=log)
    server.start()
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {TEMPLATE}")
    migrate(database_url(server.url, TEMPLATE))
    yield server
    server.stop()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """An empty Redis."""
    with Redis.from_url(redis_server.url, driver_info=None) as client:
        client.flushall()
    return redis_server.url


@pytest.fixture(scope="session")
def empty_databases(postgres_server: PostgresServer) -> Iterator[EmptyDatabases]:
    """Empty, migrated databases."""
    databases = EmptyDatabases(postgres_server.url)
    yield databases
    databases.close()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer, empty_databases: EmptyDatabases) -> Iterator[str]:
    """An empty, migrated database."""
    name = empty_databases.take()
    yield database_url(postgres_server.url, name)
    empty_databases.give_back(name)


@pytest.fixture
def empty_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A database without any table."""
    with created_database(postgres_server.url, "empty") as url:
        yield url


@pytest.fixture(scope="session")
def keyring_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A keyring."""
    path = tmp_path_factory.mktemp("keys") / "keyring.json"
    create_keyring_file(path)
    return path


@pytest.fixture
def environment(redis_url: str, postgres_url: str, keyring_file: Path) -> dict[str, str]:
    """The environment of a process of the service."""
    return environment_without_settings() | {
        "IOT_REDIS_URL": redis_url,
        "IOT_POSTGRES_URL": postgres_url,
        "IOT_KEYRING_FILE": str(keyring_file),
        # The minimum cost of scrypt, which keeps the tests fast.
        "IOT_SCRYPT_LOG2_N": "10",
        "IOT_COMPACTION_AFTER_SECONDS": "0",
    }


@pytest.fixture(scope="module")
def module_environment(
    request: pytest.FixtureRequest,
    redis_server: RedisServer,
    postgres_server: PostgresServer,
    keyring_file: Path,
) -> Iterator[dict[str, str]]:
    """The environment for the tests of one module, which share their stored data."""
    with Redis.from_url(redis_server.url) as client:
        client.flushall()
    name = f"module_{request.module.__name__.rpartition('.')[2]}"
    with created_database(postgres_server.url, name, template=TEMPLATE) as url:
        yield environment_without_settings() | {
            "IOT_REDIS_URL": redis_server.url,
            "IOT_POSTGRES_URL": url,
            "IOT_KEYRING_FILE": str(keyring_file),
            "IOT_SCRYPT_LOG2_N": "10",
        }


@pytest.fixture
def settings(environment: dict[str, str]) -> Settings:
    """Settings on the empty stores."""
    return load(environment)


@pytest.fixture
def redis(redis_url: str) -> Iterator["Redis"]:
    """A client of the empty Redis."""
    with Redis.from_url(redis_url) as made:
        yield made


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[psycopg.Connection]:
    """A connection to the empty database, which commits each statement."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def writer(settings: Settings) -> Iterator[Writer]:
    """A writer in this process, for `support.draining`."""
    made = Writer(settings)
    yield made
    made.close()


@pytest.fixture
def sender(settings: Settings) -> Iterator[Sender]:
    """A `Sender` on the empty stores."""
    with sending(settings) as made:
        yield made


@pytest.fixture(scope="module")
def module_past(module_environment: dict[str, str], module_writer: Writer) -> Iterator[Past]:
    """A past that the tests of a module share."""
    with sending(load(module_environment)) as sender:
        yield Past(sender, module_writer)


@pytest.fixture
def past(sender: Sender, writer: Writer) -> Past:
    """Empty stores for a history of old segments."""
    return Past(sender, writer)


@pytest.fixture
def client(settings: Settings) -> Iterator[FlaskClient]:
    """A client of the API in this process."""
    app = create_app(settings)
    yield app.test_client()
    app.extensions["iot"].close()


@pytest.fixture
def stack(environment: dict[str, str], tmp_path: Path) -> Iterator[Stack]:
    """The API and one writer as processes."""
    with running_stack(environment, tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def module_stack(
    module_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """Real processes for the tests of one module."""
    with running_stack(module_environment, tmp_path_factory.mktemp("stack"), metrics=True) as stack:
        yield stack


@pytest.fixture(scope="module")
def shared_settings() -> dict[str, str]:
    """Settings of `shared_stack`. Modules override this fixture."""
    return {}


@pytest.fixture(scope="module")
def shared_environment(
    module_environment: dict[str, str],
    shared_settings: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, str]]:
    """The environment of `shared_stack`, with a Redis that no other test empties."""
    redis = RedisServer(tmp_path_factory.mktemp("redis"))
    redis.start()
    own = {"IOT_REDIS_URL": redis.url, "IOT_COMPACTION_AFTER_SECONDS": "0"}
    try:
        yield module_environment | own | shared_settings
    finally:
        redis.stop()


@pytest.fixture(scope="module")
def shared_processes(
    shared_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """The processes of `shared_stack`."""
    with running_stack(shared_environment, tmp_path_factory.mktemp("shared")) as made:
        yield made


@pytest.fixture
def shared_stack(shared_processes: Stack) -> Stack:
    """The API and one writer, which the tests of a module share and may kill.

    The stored readings stay, so each test uses the fixture `password`.
    """
    shared_processes.start_missing()
    return shared_processes


@pytest.fixture
def password(request: pytest.FixtureRequest) -> str:
    """A password that no other test of the module uses."""
    return f"password of {request.node.name}"


@pytest.fixture
def resources() -> Iterator[ExitStack]:
    """A stack of resources that are closed after the test."""
    with ExitStack() as made:
        yield made


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis for one test, which may kill it."""
    server = RedisServer(tmp_path / "redis")
    server.start()
    yield server
    server.stop()
