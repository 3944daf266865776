"""Errors of each server in each state are recognized, even in scripts and pipelines."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError

from iot_stores.store_states import StoreState, state_of
from support.ports import port_of_a_node
from support.waiting import wait_until
from system.rights.stores import servers
from system.states.redis_states import STATES, ProvokedRedis

SCRIPT = "return redis.call('XADD', KEYS[1], '*', 'e', ARGV[1])"
SECRET = "what a client sent"
IMMEDIATE = {
    state: states
    for state, states in STATES.items()
    if state not in {"LOADING", "MAXCLIENTS", "WRONGPASS"}
}
ANSWERS = {
    "UNBLOCKED", "WRONGTYPE", "KILLED", "NOAUTH", "NODB", "NOCOMMAND", "CLUSTERDOWN", "CROSSSLOT",
}  # fmt: skip
"""States that only these tests provoke."""


@pytest.fixture(params=list(servers()))
def program(request: pytest.FixtureRequest) -> str:
    """Each available server program."""
    return servers()[request.param]


@pytest.fixture
def server(program: str, tmp_path: Path) -> Iterator[ProvokedRedis]:
    """A running server of this program."""
    made = ProvokedRedis(tmp_path / "redis", program)
    made.start()
    yield made
    made.kill()


@pytest.fixture
def client(server: ProvokedRedis) -> Iterator["Redis"]:
    """A client with the rights of the services."""
    with Redis.from_url(server.service_url, retry=None) as made:
        yield made


def state_met_by(attempt: Callable[[], object]) -> StoreState | None:
    """Return the state that an attempt meets."""
    with pytest.raises(RedisError) as caught:
        attempt()
    return state_of(caught.value)


@pytest.mark.parametrize("state", IMMEDIATE)
def test_states_are_recognized_in_commands_scripts_and_pipelines(
    state: str, client: "Redis", server: ProvokedRedis
) -> None:
    client.eval(SCRIPT, 1, "stream", "first")

    def pipeline(*, transaction: bool) -> None:
        with client.pipeline(transaction=transaction) as commands:
            commands.get("x")
            commands.xadd("stream", {"e": SECRET})
            commands.execute()

    attempts: list[Callable[[], object]] = [
        lambda: client.xadd("stream", {"e": SECRET}),
        lambda: client.eval(SCRIPT, 1, "stream", SECRET),
        lambda: client.eval(SCRIPT.replace(".call(", ".pcall("), 1, "stream", SECRET),
        lambda: pipeline(transaction=True),
        lambda: pipeline(transaction=False),
    ]
    provoke, of_a_command = IMMEDIATE[state]
    with provoke(server):
        states = [state_met_by(attempt) for attempt in attempts]
    assert None not in states
    codes = {each.code for each in states if each is not None}
    assert codes == {state, of_a_command}
    assert not any(SECRET in str(each) for each in states)


def test_a_forbidden_key_is_recognized(client: "Redis", server: ProvokedRedis) -> None:
    with server.admin() as admin:
        admin.execute_command("ACL", "SETUSER", "service", "resetkeys", "~mine")
    other = "return redis.call('XADD', 'other', '*', 'e', ARGV[1])"
    for attempt in (
        lambda: client.xadd("other", {"e": SECRET}),
        lambda: client.eval(other, 1, "mine", SECRET),
    ):
        state = state_met_by(attempt)
        assert state is not None
        assert state.code == "NOPERM"


@pytest.mark.parametrize("code", ["NOAUTH", "WRONGPASS", "NODB"])
def test_a_wrong_url_is_recognized(code: str, server: ProvokedRedis) -> None:
    at = f"127.0.0.1:{server.port}"
    user = "service:hunter2@" if code == "WRONGPASS" else ""
    url = f"redis://{user}{at}/0"
    if code == "NODB":
        url = f"{server.service_url.removesuffix('/0')}/99"
    with Redis.from_url(url, retry=None) as client:
        state = state_met_by(client.ping)
    assert state is not None
    assert state.code == code
    assert "hunter2" not in str(state)


def test_an_unknown_command_is_recognized(client: "Redis") -> None:
    for attempt in (
        lambda: client.execute_command("NOSUCH", SECRET),  # type: ignore[no-untyped-call]
        lambda: client.eval(f"return redis.call('NOSUCH', '{SECRET}')", 0),
    ):
        state = state_met_by(attempt)
        assert state is not None
        assert state.code == "NOCOMMAND"
        assert SECRET not in str(state)


def test_states_of_a_cluster_are_recognized(program: str, tmp_path: Path) -> None:
    server = ProvokedRedis(tmp_path / "redis", program)
    server.port = port_of_a_node()
    server.restart("cluster-enabled yes")
    server.start()
    with Redis.from_url(server.service_url, retry=None) as client:
        state = state_met_by(lambda: client.xadd("stream", {"e": SECRET}))
        assert state is not None
        assert state.code == "CLUSTERDOWN"
        client.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
        state = state_met_by(lambda: client.eval(SCRIPT, 2, "one", "two", SECRET))
        assert state is not None
        assert state.code in {"CROSSSLOT", "CLUSTERDOWN"}
    server.kill()


def test_a_key_of_another_type_is_recognized(client: "Redis") -> None:
    client.set("stream", "no stream")

    def pipeline() -> None:
        with client.pipeline(transaction=False) as commands:
            commands.get("x")
            commands.xadd("stream", {"e": SECRET})
            commands.execute()

    for attempt in (
        lambda: client.xadd("stream", {"e": SECRET}),
        lambda: client.eval(SCRIPT, 1, "stream", SECRET),
        lambda: client.eval(SCRIPT.replace(".call(", ".pcall("), 1, "stream", SECRET),
        pipeline,
    ):
        state = state_met_by(attempt)
        assert state is not None
        assert state.code == "WRONGTYPE"
        assert SECRET not in str(state)


def test_errors_in_commands_are_no_states(client: "Redis") -> None:
    client.set("text", "no number")
    for attempt in (
        lambda: client.incr("text"),
        lambda: client.eval("return redis.call('INCR', KEYS[1])", 1, "text"),
        lambda: client.eval("return redis.error_reply('READONLYISH no code')", 0),
        lambda: client.execute_command("GET"),  # type: ignore[no-untyped-call]
        lambda: client.eval("syntax error", 0),
    ):
        assert state_met_by(attempt) is None


def test_a_killed_script_is_recognized(client: "Redis", server: ProvokedRedis) -> None:
    """An administrator kills a script of the service that has written nothing."""
    with server.admin() as admin, ThreadPoolExecutor(1) as pool:
        admin.config_set("lua-time-limit", 20)
        running = pool.submit(state_met_by, lambda: client.eval("while true do end", 0))
        while not running.done():
            try:
                admin.script_kill()
            except RedisError:
                continue
        state = running.result()
    assert state is not None
    assert state.code == "KILLED"


def test_a_demoted_master_is_recognized_by_a_blocked_client(
    client: "Redis", server: ProvokedRedis
) -> None:
    with server.admin() as admin, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(state_met_by, lambda: client.blmove("none", "other", 4))
        wait_until(lambda: admin.info("clients")["blocked_clients"] == 1, what="a blocked client")
        admin.replicaof("127.0.0.1", "1")
        state = waiting.result()
        admin.replicaof("NO", "ONE")
    assert state is not None
    assert state.code == "UNBLOCKED"
