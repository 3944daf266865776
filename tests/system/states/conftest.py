"""The environment that the processes of these tests share."""

from pathlib import Path

import psycopg
import pytest

from iot_tools.local.postgres_server import PostgresServer
from iot_writer.schema import migrate
from support.databases import database_url
from support.environment import environment_without_settings

DATABASE = "of_states"


@pytest.fixture(scope="module")
def stores_environment(
    postgres_server: PostgresServer,
    keyring_file: Path,
) -> dict[str, str]:
    """The environment of processes that meet many states, with a separate database."""
    with psycopg.connect(postgres_server.url, autocommit=True) as admin:
        admin.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
        admin.execute(f"CREATE DATABASE {DATABASE}")
    url = database_url(postgres_server.url, DATABASE)
    migrate(url)
    return environment_without_settings() | {
        "IOT_POSTGRES_URL": url,
        "IOT_KEYRING_FILE": str(keyring_file),
        "IOT_SCRYPT_LOG2_N": "10",
        "IOT_COMPACTION_AFTER_SECONDS": "0",
    }
