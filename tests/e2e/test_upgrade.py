"""An upgrade and a rollback under load fail no request and lose no reading."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from e2e.availability import Availability
from e2e.cluster import Cluster
from e2e.helm import Helm, current_chart, previous_chart
from e2e.load import Report, assert_no_request_failed
from e2e.options import Options
from e2e.release import Release

ROLLED = ("api", "writer")
KEPT = ("redis", "postgres")
CHANGE = {"config.IOT_HOT_WINDOW_SECONDS": "301"}
"""A setting without effect on the tests; a change of any setting restarts all pods."""


@dataclass(frozen=True)
class Seen:
    """Observations during a change of the release."""

    before: set[str]
    """uids of the pods that must be replaced."""
    after: set[str]
    kept_before: set[str]
    kept_after: set[str]
    secrets_before: dict[str, tuple[str, str]]
    secrets_after: dict[str, tuple[str, str]]
    fewest: dict[str, int]
    report: Report


@pytest.fixture(scope="module")
def release(
    cluster: Cluster,
    helm: Helm,
    namespace: str,
    options: Options,
    tmp_path_factory: pytest.TempPathFactory,
) -> Release:
    """An installed release of the previous chart if it is set, or else of the current chart."""
    previous = previous_chart(options, tmp_path_factory.mktemp("previous"))
    made = Release(cluster, helm, namespace, current_chart(options))
    made.install(previous)
    return made


@pytest.fixture(scope="module")
def upgraded(release: Release) -> Seen:
    """Observations during an upgrade."""
    return changed(release, lambda: release.upgrade(release.chart.with_settings(CHANGE)))


@pytest.fixture(scope="module")
def rolled_back(release: Release, upgraded: Seen) -> Seen:
    """Observations during a rollback."""
    del upgraded
    return changed(release, lambda: release.roll_back(1))


def changed(release: Release, change: Callable[[], None]) -> Seen:
    """Run a change under load, and return the observations."""
    before, kept_before = release.uids(*ROLLED), release.uids(*KEPT)
    secrets_before = release.secrets()
    with release.load() as load:
        with Availability(release, ROLLED) as seen:
            change()
            for component in ROLLED:
                release.wait_until_whole(component, release.replicas(component), without=before)
        load.go_on()
        report = load.stop()
    return Seen(
        before=before,
        after=release.uids(*ROLLED),
        kept_before=kept_before,
        kept_after=release.uids(*KEPT),
        secrets_before=secrets_before,
        secrets_after=release.secrets(),
        fewest=seen.fewest,
        report=report,
    )


def check_rollout(release: Release, seen: Seen) -> None:
    assert seen.before
    assert not seen.before & seen.after
    wanted = {component: release.replicas(component) for component in ROLLED}
    assert {name: min(wanted[name], seen.fewest[name]) for name in ROLLED} == wanted


def test_an_upgrade_fails_no_request(upgraded: Seen) -> None:
    assert_no_request_failed(upgraded.report)


def test_old_pods_run_until_new_pods_are_ready(release: Release, upgraded: Seen) -> None:
    check_rollout(release, upgraded)


def test_an_upgrade_does_not_restart_redis_and_postgres(upgraded: Seen, options: Options) -> None:
    if options.previous_chart is not None:
        pytest.skip("another chart may have other images or settings for Redis and Postgres")
    assert upgraded.kept_before == upgraded.kept_after


def test_an_upgrade_changes_no_secret(upgraded: Seen) -> None:
    assert upgraded.secrets_before
    kept = {name: upgraded.secrets_after.get(name) for name in upgraded.secrets_before}
    assert kept == upgraded.secrets_before


def test_a_rollback_fails_no_request(rolled_back: Seen) -> None:
    assert_no_request_failed(rolled_back.report)


def test_a_rollback_replaces_every_pod_in_turn(release: Release, rolled_back: Seen) -> None:
    check_rollout(release, rolled_back)


def test_a_rollback_changes_no_secret(rolled_back: Seen) -> None:
    assert rolled_back.secrets_after == rolled_back.secrets_before


def test_helm_test_succeeds_after_a_rollback(release: Release, rolled_back: Seen) -> None:
    del rolled_back
    assert "Succeeded" in release.test()
