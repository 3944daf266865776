"""The NetworkPolicies refuse foreign pods, if the cluster enforces NetworkPolicies."""

import time

import pytest

from e2e import patience
from e2e.bodies import PORT, closing_policy, listening_pod
from e2e.cluster import Cluster
from e2e.release import Release

BLOCKED = {"timeout", "refused"}


@pytest.fixture(scope="module")
def enforcing(cluster: Cluster, release: Release, foreign_namespace: str) -> None:
    """Skip the tests on a cluster that does not enforce NetworkPolicies."""
    listener = cluster.start_pod(foreign_namespace, listening_pod(release.names.image))
    pod = cluster.core.read_namespaced_pod(listener, foreign_namespace)
    address = [(pod.status.pod_ip, PORT)]

    def came() -> str:
        return release.reach(foreign_namespace, address)[0]

    cluster.wait(lambda: came() == "reached", patience.POD_START, "a pod that reaches another one")
    cluster.networking.create_namespaced_network_policy(foreign_namespace, closing_policy())
    end = time.monotonic() + patience.POLICY
    while came() not in BLOCKED:
        if time.monotonic() > end:
            pytest.skip(
                f"this cluster's network does not enforce NetworkPolicies: {patience.POLICY} s "
                "after a policy that allows no connection, a pod still accepts connections"
            )


def stores(release: Release) -> list[tuple[str, int]]:
    """Return the addresses of Redis and Postgres, if they belong to the release."""
    ports = {"redis": 6379, "postgres": 5432}
    found = {name: release.names.of("Service", name) for name in ports}
    addresses = [(release.host(found[name]), ports[name]) for name in ports if found[name]]
    if not addresses:
        pytest.skip("neither Redis nor Postgres belongs to the release (IOT_E2E_VALUES)")
    return addresses


def metrics(release: Release) -> list[tuple[str, int]]:
    name = release.names.fullname
    return [
        (release.host(f"{name}-api-metrics"), 9100),
        (release.host(f"{name}-writer-metrics"), 9101),
    ]


@pytest.mark.usefixtures("enforcing")
def test_another_namespace_reaches_only_the_api(release: Release, foreign_namespace: str) -> None:
    host, _, port = release.url.removeprefix("http://").partition(":")
    api = [(host, int(port))]
    closed = [*stores(release), *metrics(release)]
    first, *others = release.reach(foreign_namespace, api + closed)
    assert first == "reached"
    assert set(others) <= BLOCKED, dict(zip(closed, others, strict=True))


@pytest.mark.usefixtures("enforcing")
def test_a_foreign_pod_in_the_namespace_reaches_no_store(release: Release) -> None:
    closed = stores(release)
    came = release.reach(release.namespace, closed)
    assert set(came) <= BLOCKED, dict(zip(closed, came, strict=True))
