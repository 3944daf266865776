"""Pods are killed, scaled and drained under load."""

import pytest

from e2e.cluster import Cluster
from e2e.load import assert_no_request_failed, assert_nothing_lost
from e2e.nodes import cordoned, usable
from e2e.options import Options
from e2e.release import Release

KILLS = 3
STEPS = {"api": (4, 1, 2), "writer": (4, 1, 2)}
"""Replicas to scale to, one after the other."""


@pytest.mark.parametrize("component", ["api", "writer"])
def test_killed_pods_lose_and_duplicate_no_reading(release: Release, component: str) -> None:
    """Pods are killed one by one, then all at once. Requests to killed API pods may fail."""
    replicas = release.replicas(component)
    with release.load() as load:
        for _ in range(KILLS):
            killed = release.kill(release.pods(component)[:1])
            load.go_on()
            release.wait_until_whole(component, replicas, without=killed)
        killed = release.kill(release.pods(component))
        release.wait_until_whole(component, replicas, without=killed)
        load.go_on()
        report = load.stop()
    assert_nothing_lost(report)
    if component == "writer":
        assert_no_request_failed(report)


def test_scaling_fails_no_request(release: Release) -> None:
    before = {component: release.replicas(component) for component in STEPS}
    with release.load() as load:
        for component, steps in STEPS.items():
            for replicas in (*steps, before[component]):
                release.scale(component, replicas)
                load.go_on()
        report = load.stop()
    assert_no_request_failed(report)


def test_draining_every_node_fails_no_request(
    cluster: Cluster, release: Release, options: Options
) -> None:
    """Only API and writers are drained: Redis and Postgres of the demo have one replica."""
    if not options.drain:
        pytest.skip("IOT_E2E_DRAIN=0: no node is cordoned")
    nodes = usable(cluster)
    if len(nodes) < 2:
        pytest.skip(f"{len(nodes)} schedulable node: draining needs at least two")
    with release.load() as load:
        for node in nodes:
            with cordoned(cluster, node):
                for component in ("api", "writer"):
                    drain(release, component, node)
                    load.go_on()
        report = load.stop()
    assert_no_request_failed(report)


def drain(release: Release, component: str, node: str) -> None:
    """Evict all pods of a component from a node, and wait until other pods are ready."""
    leaving = [each for each in release.pods(component) if each.spec.node_name == node]
    for each in leaving:
        release.evict(each)
    gone = {each.metadata.uid for each in leaving}
    release.wait_until_whole(component, release.replicas(component), without=gone)
