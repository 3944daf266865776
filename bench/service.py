"""The service under test: its real processes on loopback, with data in a temporary folder."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
from redis import Redis

from iot_cipher.keyring import create_keyring_file
from iot_models.names import KeyNames
from iot_sensor_client import Client
from iot_tools.local.child import Child
from iot_tools.local.launcher import Launcher, environment_with
from iot_tools.local.ports import free_port
from iot_tools.local.postgres_server import PostgresServer
from iot_tools.local.redis_server import RedisServer
from iot_writer.schema import migrate

from . import readings
from .limits import wait_until
from .load import Wire, send
from .peers.side import Side, answers

KEYS = KeyNames("")
READY_SECONDS = 30
SETTLE_SECONDS = 120
PROCESSES = 2
SHARDS = 8

_STORED = "SELECT coalesce(sum(count), 0)::int8 FROM segments"
_SIZE = """
    SELECT sum(pg_total_relation_size(relid))::int8 FROM pg_partition_tree('segments') WHERE isleaf
"""


class Service(Side):
    """API processes, one writer, Redis and Postgres."""

    name = "this service"
    stores_later = True
    durability = (
        "acknowledged = in Redis (AOF, fsync every second); stored = committed in Postgres, "
        "with fsync; encrypted and authenticated"
    )
    wire = Wire("PUT", "/api/iot", "application/json", 201,
                readings.json_readings, readings.json_reading)  # fmt: skip

    def __init__(self, redis: RedisServer, postgres: PostgresServer, keyring: Path, shards: int):
        self.settings = f"{PROCESSES} API processes, 1 writer, {shards} shards, else defaults"
        self.redis_url, self.postgres_url = redis.url, postgres.url
        self.port, self.shards = free_port(), shards
        self.pids = {"Redis": redis.pid, "Postgres": postgres.pid}
        variables = {
            "IOT_REDIS_URL": redis.url,
            "IOT_POSTGRES_URL": postgres.url,
            "IOT_KEYRING_FILE": str(keyring),
            "IOT_BIND": f"127.0.0.1:{self.port}",
            "IOT_API_WORKERS": str(PROCESSES),
            "IOT_SHARDS": str(shards),
            "IOT_API_METRICS_PORT": str(free_port()),
            "IOT_WRITER_METRICS_PORT": "0",
            "IOT_LOG_LEVEL": "ERROR",
            # The bench creates hundreds of vaults from one address, and measures the cost of open
            # vaults only.
            "IOT_SCRYPT_LOG2_N": "10",
            "IOT_GUESS_LIMIT": "1000000",
        }
        self.environment = environment_with(variables)
        self.children: list[Child] = []
        self._redis = Redis.from_url(redis.url)
        self._postgres = psycopg.connect(postgres.url, autocommit=True)

    def close(self) -> None:
        """Close the connections to the stores."""
        self._redis.close()
        self._postgres.close()

    def stored(self) -> int:
        """Return the number of readings committed in Postgres."""
        return self._number(_STORED)

    def history_bytes(self) -> int:
        """Return the bytes of the history in Postgres, with indexes and TOAST."""
        self._postgres.execute("CHECKPOINT")
        return self._number(_SIZE)

    def settle(self) -> None:
        """Wait until the backlog is empty."""
        wait_until(self._is_drained, SETTLE_SECONDS, "the backlog is drained")

    def open_vaults(self, vaults: list[str]) -> None:
        """Open vaults in every API process. A process computes one scrypt per vault."""
        requests = [self.wire.request(self.wire.single(0, vault).encode()) for vault in vaults]
        # A connection goes to a random process. With this many, every process gets some.
        send(self.port, [requests] * 8 * PROCESSES, self.wire.status)
        self.settle()

    def _is_drained(self) -> bool:
        for child in self.children:
            if not child.running:
                raise RuntimeError(f"{child.name} ended ({child.ending}):\n{child.log_tail()}")
        return not any(self._redis.xlen(KEYS.stream(shard)) for shard in range(self.shards))

    def _number(self, statement: str) -> int:
        row = self._postgres.execute(statement).fetchone()
        return int(row[0] or 0) if row else 0

    def ready(self) -> bool:
        """Return whether the service accepts readings."""
        return Client(f"http://127.0.0.1:{self.port}").is_ready()


@contextmanager
def running_service(
    shards: int = SHARDS, settings: Mapping[str, str] | None = None
) -> Iterator[Service]:
    """Start the service, with additional `settings` (`IOT_*`). It stops at the end of the block."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="iot-bench-")))
        redis, postgres = RedisServer(folder / "redis"), PostgresServer(folder / "postgres")
        for server in (redis, postgres):
            server.start()
            stack.callback(server.stop)
        migrate(postgres.url)
        create_keyring_file(folder / "keyring.json")
        service = Service(redis, postgres, folder / "keyring.json", shards)
        service.environment.update(settings or {})
        stack.callback(service.close)
        launcher = Launcher(service.environment, folder)
        for child in (launcher.api(name="API"), launcher.writer()):
            child.spawn()
            stack.callback(child.stop)
            service.pids[child.name] = child.pid
            service.children.append(child)
        wait_until(lambda: answers(service.ready), READY_SECONDS, "the service is ready")
        yield service
