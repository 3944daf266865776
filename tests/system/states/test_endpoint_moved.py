"""Failover of a managed endpoint: the name leads to the new primary, and open connections stay with
the old primary, which is a replica now.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from support.waiting import wait_until
from system.faults.proxy import Proxy
from system.reliability.pgbouncer import PgBouncer
from system.reliability.redis_group import PASSWORD, Group
from system.states.postgres_pair import PostgresPair
from system.states.running import Running, running_service

KNOWN = [f"known {number}" for number in range(4)]


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    """A master and two replicas."""
    made = Group(tmp_path / "group", replicas=2, sentinels=0)
    yield made
    made.stop()


def fail_over(group: Group, name: Proxy) -> None:
    """Make the replica the master. The old master becomes its replica."""
    promote(group)
    name.lead_to(group.replica.port)
    demote(group)


def promote(group: Group) -> None:
    """Make the first replica a master."""
    with group.replica.client() as client:
        client.replicaof("NO", "ONE")


def demote(group: Group) -> None:
    """Make the master and the other replica replicas of the first replica."""
    for follower in (group.master, group.replicas[1]):
        with follower.client() as client:
            client.replicaof("127.0.0.1", str(group.replica.port))


@pytest.mark.parametrize("wait_replicas", [0, 1])
def test_puts_continue_after_a_failover_of_redis(
    wait_replicas: int, group: Group, stores_environment: dict[str, str], tmp_path: Path
) -> None:
    with Proxy(group.master.port) as name:
        url = group.master_url.replace(str(group.master.port), str(name.port))
        changes = {"IOT_REDIS_URL": url, "IOT_REDIS_WAIT_REPLICAS": str(wait_replicas)}
        with running_service(stores_environment | changes, tmp_path) as running:
            for password in KNOWN:
                assert running.put(password).status == 201
            running.mark()
            wait_until(lambda: group.master.replicas() == 2, what="replicas in step")
            fail_over(group, name)
            if wait_replicas:
                wait_until(lambda: group.replica.replicas() > 0, what="a replica of the new master")
            running.assert_acknowledged_again(*KNOWN)
            assert running.ready()["redis"] == "ok"
            for password in KNOWN:
                assert running.put(password).status == 201
            running.assert_all_stored()


def test_readiness_detects_a_failover_without_requests(
    group: Group, stores_environment: dict[str, str], tmp_path: Path
) -> None:
    with Proxy(group.master.port) as name:
        url = group.master_url.replace(str(group.master.port), str(name.port))
        with running_service(stores_environment | {"IOT_REDIS_URL": url}, tmp_path) as running:
            running.mark()
            promote(group)
            demote(group)
            wait_until(
                lambda: running.ready()["redis"].startswith("READONLY: "),
                what="a probe of a replica",
            )
            name.lead_to(group.replica.port)
            wait_until(lambda: running.ready()["redis"] == "ok", what="readiness")
            # Another worker than the one that is ready may answer.
            wait_until(lambda: running.put(KNOWN[0]).status == 201, what="a PUT")


def test_the_hot_window_continues_after_a_failover(
    group: Group, redis_url: str, stores_environment: dict[str, str], tmp_path: Path
) -> None:
    """The hot window misses some readings, which the Redis of the backlog acknowledges."""
    with Proxy(group.master.port) as name:
        url = group.master_url.replace(str(group.master.port), str(name.port))
        changes = {"IOT_REDIS_URL": redis_url, "IOT_HOT_WINDOW_REDIS_URL": url}
        with running_service(stores_environment | changes, tmp_path) as running:
            running.mark()
            fail_over(group, name)
            assert running.put(KNOWN[0]).status == 201
            running.assert_all_stored()

            def warm() -> bool:
                assert running.put(KNOWN[0]).status == 201
                with Redis(port=group.replica.port, password=PASSWORD) as client:
                    clients = client.client_list()
                return any("hset" in str(each["cmd"]) or "eval" in str(each["cmd"])
                           for each in clients)  # fmt: skip

            wait_until(warm, what="a writer that uses the new master")


@pytest.fixture
def postgres_pair(tmp_path: Path) -> Iterator[PostgresPair]:
    """A primary and a standby."""
    pair = PostgresPair(tmp_path / "pair")
    yield pair
    pair.stop()


def move_postgres(running: Running, pair: PostgresPair, name: Proxy) -> None:
    """Promote the standby under load. The old primary stays, and is read-only."""
    for password in KNOWN:
        assert running.put(password).status == 201
    running.assert_all_stored()
    running.mark()
    pair.promote()
    name.lead_to(pair.standby_port)
    pair.demote_primary()
    running.assert_refused("the first new one", "Postgres", "read_only_sql_transaction")


def test_requests_continue_after_a_failover_of_postgres(
    postgres_pair: PostgresPair,
    redis_url: str,
    stores_environment: dict[str, str],
    tmp_path: Path,
) -> None:
    with Proxy(postgres_pair.primary_port) as name:
        url = postgres_pair.url(name.port)
        changes = {"IOT_POSTGRES_URL": url, "IOT_REDIS_URL": redis_url}
        with running_service(stores_environment | changes, tmp_path) as running:
            move_postgres(running, postgres_pair, name)
            running.assert_acknowledged_again("a new one", *KNOWN)
            running.assert_all_stored()


def test_requests_continue_after_a_failover_behind_pgbouncer(
    postgres_pair: PostgresPair,
    redis_url: str,
    stores_environment: dict[str, str],
    tmp_path: Path,
) -> None:
    """PgBouncer's connections stay with the old primary until its clients close them."""
    with Proxy(postgres_pair.primary_port) as name:
        pooler = PgBouncer(tmp_path / "pgbouncer", postgres_pair.url(name.port))
        changes = {"IOT_POSTGRES_URL": pooler.url, "IOT_REDIS_URL": redis_url}
        try:
            with running_service(stores_environment | changes, tmp_path) as running:
                move_postgres(running, postgres_pair, name)
                running.assert_acknowledged_again("a new one", *KNOWN)
                running.assert_all_stored()
        finally:
            pooler.stop()


def test_idle_processes_close_connections_to_the_old_master(
    group: Group, stores_environment: dict[str, str], tmp_path: Path
) -> None:
    """Otherwise their next request would be refused."""
    with Proxy(group.master.port) as name:
        url = group.master_url.replace(str(group.master.port), str(name.port))
        with running_service(stores_environment | {"IOT_REDIS_URL": url}, tmp_path) as running:
            assert running.put(KNOWN[0]).status == 201
            running.mark()
            old = group.master
            fail_over(group, name)
            with old.client() as client:
                wait_until(lambda: not _clients(client), what="a master without clients")
            for password in KNOWN:
                assert running.put(password).status == 201
            running.assert_all_stored()


def _clients(redis: "Redis") -> list[str]:
    """Return the last commands of other clients that are no replicas."""
    found = redis.client_list(_type="normal")
    return [each["cmd"] for each in found if not each["cmd"].startswith("client")]
