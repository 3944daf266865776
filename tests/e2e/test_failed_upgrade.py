"""A failed upgrade leaves no Job behind, and the next upgrade succeeds with other values."""

from contextlib import suppress
from typing import Any

from e2e.cluster import Cluster
from e2e.helm import HelmError
from e2e.release import Release

CHANGE = {"config.IOT_HOT_WINDOW_SECONDS": "302"}
JOBS = {"jobs.resources.limits.memory": "300Mi", "commonLabels.example\\.org/cost": "42"}


def scale(cluster: Cluster, release: Release, replicas: int) -> None:
    """Scale as `kubectl scale` does; with Helm 4, the next upgrade has a conflict."""
    name = f"{release.names.fullname}-api"
    body = {"spec": {"replicas": replicas}}
    cluster.apps.patch_namespaced_deployment_scale(name, release.namespace, body)


def jobs(cluster: Cluster, release: Release) -> list[Any]:
    """Return the names of all Jobs of the namespace."""
    found = cluster.batch.list_namespaced_job(release.namespace).items
    return [each.metadata.name for each in found]


def test_an_upgrade_succeeds_after_a_failed_upgrade(cluster: Cluster, release: Release) -> None:
    asked = release.replicas("api")
    scale(cluster, release, asked + 1)
    with suppress(HelmError):  # Helm 3 reports no conflict and applies the values
        release.upgrade(release.chart.with_settings(CHANGE))
    assert jobs(cluster, release) == []
    scale(cluster, release, asked)

    release.upgrade(release.chart.with_settings(JOBS))
    assert jobs(cluster, release) == []
    assert "Succeeded" in release.test()


def test_no_job_outlives_the_release(cluster: Cluster, release: Release) -> None:
    release.uninstall()
    assert jobs(cluster, release) == []
    release.install(release.chart.with_settings(JOBS))
    release.upgrade(release.chart.with_settings({**CHANGE, **JOBS}))
    assert jobs(cluster, release) == []
