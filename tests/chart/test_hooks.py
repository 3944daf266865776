"""The hooks run in an order in which each finds what it needs, and leave nothing behind."""

import pytest

from chart.release import Release, annotations, hooks, name_of, title, weight
from chart.rendering import rendered
from chart.schemas import NEWEST

BEFORE = {"pre-install", "pre-upgrade"}
DELETE = "helm.sh/hook-delete-policy"


def test_jobs_come_after_what_they_need(release: Release) -> None:
    for each in release.of("Job"):
        (pod,) = (pod for pod in release.pods if pod.owner is each)
        account = pod.spec.get("serviceAccountName", "default")
        for other in release.objects:
            if not hooks(other) & BEFORE or other is each:
                continue
            chooses = (
                (other["spec"].get("podSelector") or {}).get("matchLabels")
                if (other["kind"] == "NetworkPolicy")
                else None
            )
            needed = (
                (other["kind"] == "ServiceAccount" and name_of(other) == account)
                or (other["kind"] in {"Role", "RoleBinding"} and account != "default")
                or (chooses is not None and chooses.items() <= pod.labels.items())
            )
            if needed:
                assert weight(other) < weight(each), f"{title(other)} before {title(each)}"
                assert hooks(other) == hooks(each), title(other)


def test_secrets_are_made_before_the_migration_reads_them(release: Release) -> None:
    secrets = release.pod("secrets").owner
    assert hooks(secrets) == BEFORE
    for pod in release.pods:
        if pod.component == "migrate" and hooks(pod.owner):
            assert weight(secrets) < weight(pod.owner)


def test_hooks_leave_nothing_but_what_a_failure_needs(release: Release) -> None:
    for each in release.objects:
        if hooks(each):
            policies = set(annotations(each)[DELETE].replace(" ", "").split(","))
            assert "before-hook-creation" in policies, title(each)
            assert "hook-failed" not in policies, f"{title(each)}: its log would be lost"
            if hooks(each) == BEFORE:
                assert "hook-succeeded" in policies, title(each)


def test_jobs_end(release: Release) -> None:
    for each in release.of("Job"):
        spec = each["spec"]
        assert 0 < spec["activeDeadlineSeconds"] <= 600, title(each)
        assert spec["backoffLimit"] <= 6, title(each)
        assert spec["template"]["spec"]["restartPolicy"] in {"Never", "OnFailure"}, title(each)


def test_own_stores_are_no_hooks(release: Release) -> None:
    """Helm would forget them, and an uninstall leave them running."""
    for each in release.of("StatefulSet", "Deployment", "Service", "ConfigMap"):
        assert not hooks(each), title(each)


@pytest.mark.parametrize("name", ["demo", "long-name"])
def test_the_writers_migrate_the_releases_own_postgres(name: str) -> None:
    """That Postgres is not there before the release is: a hook would wait for ever."""
    pod, container = rendered(name, NEWEST).runs("migrate")
    assert pod.component == "writer"
    assert pod.spec["initContainers"] == [container]


def test_a_migration_of_ones_own_postgres_comes_before_the_pods() -> None:
    release = rendered("own-stores", NEWEST)
    assert hooks(release.runs("migrate")[0].owner) == BEFORE
    assert "initContainers" not in release.pod("writer").spec


def test_no_job_is_a_part_of_a_release(release: Release) -> None:
    """Helm forgets one that came with an upgrade that failed, and Kubernetes lets none be changed:
    the next upgrade or the next install would fail on it.
    """
    for each in release.of("Job", "CronJob"):
        assert hooks(each) == BEFORE, title(each)
        assert "before-hook-creation" in annotations(each)[DELETE], title(each)


def test_a_job_that_failed_stays_for_a_day(release: Release) -> None:
    """Helm keeps it for its log, and an uninstall leaves it."""
    for each in release.of("Job"):
        assert 3600 <= each["spec"]["ttlSecondsAfterFinished"] <= 86_400, title(each)


def test_helm_test_is_one_pod_that_ends(release: Release) -> None:
    (pod,) = (each for each in release.pods if "test" in hooks(each.owner))
    assert pod.spec["restartPolicy"] == "Never"
    assert pod.spec["activeDeadlineSeconds"] <= 600
