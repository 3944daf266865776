"""The code for pods of the e2e tests runs as processes: load, requests and connections."""

from collections.abc import Callable

import pytest

from e2e import bodies, patience, test_installed
from e2e.availability import Availability
from e2e.load import assert_no_request_failed, assert_nothing_lost, last
from e2e.release import Release
from iot_tools.local.ports import free_port
from support.stack import Stack
from system.e2e.api_server import ApiServer
from system.e2e.test_cluster import IMAGE, make_pods


@pytest.mark.parametrize(
    "test",
    [
        test_installed.test_readings_are_stored_and_read_through_the_service,
        test_installed.test_requests_without_the_right_token_are_refused,
    ],
)
def test_tests_of_an_install_pass(served: Release, test: Callable[[Release], None]) -> None:
    """The e2e tests pass with local processes."""
    test(served)


def test_a_load_runs_until_it_is_stopped(served: Release) -> None:
    with served.load(devices=3, rate=50) as load:
        load.go_on()
        report = load.stop()
        assert load.stop() is report
    assert report["devices"] == 3
    assert_no_request_failed(report)


def test_a_load_reports_a_killed_api_and_no_lost_reading(
    served: Release, shared_stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served.load(devices=3, rate=50) as load:
        shared_stack.kill_api()
        with monkeypatch.context() as patched:
            patched.setattr(patience, "GO_ON", 1)
            with pytest.raises(AssertionError, match="more acknowledgements for every device"):
                load.go_on(1_000_000)
        shared_stack.start_api()
        load.go_on()
        report = load.stop()
    assert_nothing_lost(report)
    with pytest.raises(AssertionError):
        assert_no_request_failed(report)


def test_a_failed_test_stops_its_load(served: Release) -> None:
    with pytest.raises(ZeroDivisionError), served.load(devices=1, rate=50) as load:
        1 / 0  # noqa: B018
    assert load.stop()["acknowledged"] > 0


@pytest.mark.parametrize("wrong", ["lost", "doubled", "strange", "not_stored"])
def test_each_fault_in_a_report_is_an_error(wrong: str) -> None:
    names = ("lost", "doubled", "strange", "not_stored", "failed", "refused", "unsure")
    report = {**dict.fromkeys(names, 0), "acknowledged": 1, "well": True}
    assert_no_request_failed(report)
    with pytest.raises(AssertionError):
        assert_nothing_lost({**report, wrong: 1})
    with pytest.raises(AssertionError):
        assert_nothing_lost({**report, "acknowledged": 0})
    with pytest.raises(AssertionError):
        assert_no_request_failed({**report, "failed": 1})


def test_the_last_complete_line_is_used() -> None:
    log = 'x\n{"progress": {"least": 1}}\n{"report": {"a": 2}}\n{"progress": {"lea'
    assert last(log, "progress") == {"least": 1}
    assert last(log, "report") == {"a": 2}
    assert last("", "report") is None


def test_results_of_connections_are_reported(release: Release) -> None:
    namespace = release.cluster.make_namespace()
    port = free_port()
    listener = bodies.listening_pod(IMAGE)
    (container,) = listener["spec"]["containers"]
    container["command"][-1] = str(port)
    release.cluster.start_pod(namespace, listener)
    addresses = [("127.0.0.1", port), ("127.0.0.1", free_port()), ("no-such-name.invalid", 1)]
    release.cluster.wait(
        lambda: release.reach(namespace, addresses[:1]) == ["reached"], 10, "the listener"
    )
    assert release.reach(namespace, addresses) == ["reached", "refused", "no name"]


def test_the_log_of_a_failed_pod_is_shown(release: Release) -> None:
    with pytest.raises(AssertionError, match="FileNotFoundError"):
        release.ask({"method": "PUT", "path": "/", "body": {}, "token": "nobody"})


def test_the_minimum_of_ready_pods_is_recorded(server: ApiServer, release: Release) -> None:
    make_pods(server, release, "api", ["node-1"] * 2)
    with Availability(release, ["api"]) as seen:
        assert seen.fewest == {"api": 2}
        release.kill(release.pods("api")[:1])
        looks = seen.looks
        release.cluster.wait(lambda: seen.looks > looks + 1, 10, "more looks")
        make_pods(server, release, "api", ["node-1"] * 2)
    assert seen.fewest == {"api": 1}
