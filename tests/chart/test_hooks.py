"""Hooks run after the objects they need, and leave no objects behind."""

import pytest

from chart.release import Release, annotations, hooks, name_of, title, weight
from chart.rendering import rendered
from chart.schemas import NEWEST

BEFORE = {"pre-install", "pre-upgrade"}
DELETE = "helm.sh/hook-delete-policy"


def test_jobs_run_after_the_objects_they_need(release: Release) -> None:
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


def test_secrets_are_made_before_the_migration(release: Release) -> None:
    secrets = release.pod("secrets").owner
    assert hooks(secrets) == BEFORE
    for pod in release.pods:
        if pod.component == "migrate" and hooks(pod.owner):
            assert weight(secrets) < weight(pod.owner)


def test_only_failed_hooks_are_kept(release: Release) -> None:
    for each in release.objects:
        if hooks(each):
            policies = set(annotations(each)[DELETE].replace(" ", "").split(","))
            assert "before-hook-creation" in policies, title(each)
            assert "hook-failed" not in policies, (
                f"{title(each)}: the log of a failed hook would be lost"
            )
            if hooks(each) == BEFORE:
                assert "hook-succeeded" in policies, title(each)


def test_jobs_have_a_deadline(release: Release) -> None:
    for each in release.of("Job"):
        spec = each["spec"]
        assert 0 < spec["activeDeadlineSeconds"] <= 600, title(each)
        assert spec["backoffLimit"] <= 6, title(each)
        assert spec["template"]["spec"]["restartPolicy"] in {"Never", "OnFailure"}, title(each)


def test_stores_of_the_release_are_no_hooks(release: Release) -> None:
    """Helm does not track hooks, so an uninstall would leave the stores running."""
    for each in release.of("StatefulSet", "Deployment", "Service", "ConfigMap"):
        assert not hooks(each), title(each)


@pytest.mark.parametrize("name", ["demo", "long-name"])
def test_writers_migrate_the_postgres_of_the_release(name: str) -> None:
    """A hook would wait forever, because that Postgres is part of the release."""
    pod, container = rendered(name, NEWEST).runs("migrate")
    assert pod.component == "writer"
    assert pod.spec["initContainers"] == [container]


def test_an_external_postgres_is_migrated_before_the_pods_start() -> None:
    release = rendered("own-stores", NEWEST)
    assert hooks(release.runs("migrate")[0].owner) == BEFORE
    assert "initContainers" not in release.pod("writer").spec


def test_every_job_is_a_hook(release: Release) -> None:
    """Jobs are immutable: a Job left by a failed upgrade would fail the next upgrade.

    A CronJob may be changed.
    """
    for each in release.of("Job"):
        assert hooks(each) == BEFORE, title(each)
        assert "before-hook-creation" in annotations(each)[DELETE], title(each)


def test_a_cronjob_runs_one_job_at_a_time_with_a_deadline(release: Release) -> None:
    for each in release.of("CronJob"):
        assert not hooks(each), title(each)
        assert each["spec"]["concurrencyPolicy"] == "Forbid", title(each)
        job = each["spec"]["jobTemplate"]["spec"]
        assert job["activeDeadlineSeconds"] > 0, title(each)
        assert job["template"]["spec"]["restartPolicy"] == "Never", title(each)


def test_a_failed_job_is_kept_for_up_to_a_day(release: Release) -> None:
    """Helm keeps a failed Job for its log, even after an uninstall."""
    for each in release.of("Job"):
        assert 3600 <= each["spec"]["ttlSecondsAfterFinished"] <= 86_400, title(each)


def test_the_helm_test_is_one_pod_with_a_deadline(release: Release) -> None:
    (pod,) = (each for each in release.pods if "test" in hooks(each.owner))
    assert pod.spec["restartPolicy"] == "Never"
    assert pod.spec["activeDeadlineSeconds"] <= 600
