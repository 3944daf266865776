"""A server that refuses invalid requests accepts the calls of the e2e tests."""

from pathlib import Path

import pytest
from kubernetes import client

from chart.podsecurity import violations
from chart.schemas import VERSIONS, mistakes
from e2e import bodies, patience
from e2e.bodies import Body, Image
from e2e.cluster import Cluster, NoClusterError
from e2e.diagnosis import of_namespace
from e2e.nodes import cordoned, usable
from e2e.release import NAME, Release
from e2e.test_under_load import drain
from iot_tools.local.ports import free_port
from system.e2e.api_server import ApiServer, ready_pod

IMAGE = Image("example.org/iot-sensor-writer:1", "IfNotPresent", ("pull",))
BODIES: dict[str, Body] = {
    "namespace": bodies.namespace_body("x"),
    "load": bodies.load_pod(IMAGE, "http://x", "probe", devices=3, rate=10),
    "ask": bodies.asking_pod(IMAGE, [{"method": "PUT"}], "tokens"),
    "reach": bodies.reaching_pod(IMAGE, [("x", 1)]),
    "listen": bodies.listening_pod(IMAGE),
    "policy": bodies.closing_policy(),
    "eviction": bodies.eviction("x", "y"),
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", BODIES)
def test_kubernetes_accepts_the_objects_of_the_tests(name: str, version: str) -> None:
    body = BODIES[name]
    assert mistakes(body, version) == []
    if body["kind"] == "Pod":
        assert violations(body["metadata"], body["spec"]) == []
        for word in body["spec"]["containers"][0]["command"]:
            assert "$(" not in word
            assert "$$" not in word


def make_pods(server: ApiServer, release: Release, component: str, nodes: list[str]) -> None:
    labels = {
        "app.kubernetes.io/instance": NAME,
        "app.kubernetes.io/component": component,
    }
    for node in nodes:
        name = f"{component}-{server.keep('numbers', '', 'x')['metadata']['uid']}"
        server.keep("pods", release.namespace, name, **ready_pod(labels, node))


def make_nodes(server: ApiServer) -> None:
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    taints = [{"key": "control-plane", "effect": "NoSchedule"}]
    server.keep("nodes", "", "head", spec={"taints": taints}, status=ready)
    server.keep("nodes", "", "away", spec={"unschedulable": True}, status=ready)
    for name in ("node-1", "node-2"):
        server.keep("nodes", "", name, spec={}, status=ready)


def test_a_missing_kube_config_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(NoClusterError, match="no cluster is at hand: "):
        Cluster()


def test_an_unreachable_cluster_is_reported(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.url = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("KUBECONFIG", str(server.kube_config(tmp_path / "other.config")))
    with pytest.raises(NoClusterError, match="does not answer within 3 s: "):
        Cluster()


@pytest.mark.usefixtures("cluster")
def test_a_missing_context_is_reported() -> None:
    with pytest.raises(NoClusterError, match="other"):
        Cluster("other")


def test_a_namespace_is_made_and_deleted(server: ApiServer, cluster: Cluster) -> None:
    name = cluster.make_namespace()
    made = server.objects["namespaces", "", name]
    assert made["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    cluster.delete_namespace(name)
    assert cluster.namespaces == []
    assert not [key for key in server.objects if name in key]


def test_a_wait_continues_after_transient_errors(server: ApiServer, cluster: Cluster) -> None:
    make_nodes(server)
    server.failures = [503, 500]
    assert len(cluster.core.list_node().items) == 4
    server.failures = [429]
    assert cluster.wait(lambda: cluster.core.list_node().items, 5, "nodes")


def test_a_timeout_names_the_condition_and_the_last_answer(cluster: Cluster) -> None:
    with pytest.raises(AssertionError, match=r"the moon: not within 0.1 s \(last: '404 "):
        cluster.wait(lambda: cluster.core.read_node("moon"), 0.1, "the moon")


def test_a_forbidden_request_ends_a_wait(server: ApiServer, cluster: Cluster) -> None:
    server.failures = [403]
    with pytest.raises(client.ApiException, match="injected"):
        cluster.wait(cluster.core.list_node, 5, "nodes")


def test_pods_that_are_not_restricted_are_refused(cluster: Cluster) -> None:
    body = bodies.listening_pod(IMAGE)
    del body["spec"]["securityContext"]
    with pytest.raises(client.ApiException, match="runAsNonRoot"):
        cluster.start_pod(cluster.make_namespace(), body)


def test_a_log_that_is_json_stays_text(cluster: Cluster) -> None:
    namespace = cluster.make_namespace()
    body = bodies._pod("x", IMAGE, ["echo", '{"a": true}'])  # noqa: SLF001
    name = cluster.start_pod(namespace, body)
    assert cluster.end_of_pod(namespace, name, 10) == (0, '{"a": true}\n')


def test_killed_pods_have_no_grace_period(server: ApiServer, release: Release) -> None:
    make_pods(server, release, "api", ["node-1", "node-1"])
    first, second = release.pods("api")
    assert release.kill([first]) == {first.metadata.uid}
    assert release.uids("api", "writer") == {second.metadata.uid}
    (deleted,) = (url for method, url, _ in server.asked if method == "DELETE")
    assert "gracePeriodSeconds=0" in deleted


def test_scaling_waits_for_the_pods(server: ApiServer, release: Release) -> None:
    server.keep("deployments", release.namespace, "iot-iot-sensor-writer", spec={"replicas": 0})
    server.react = lambda *_: make_pods(server, release, "writer", ["node-1"] * 3)
    release.scale("writer", 3)
    assert len(release.pods("writer")) == 3


def test_wait_until_whole_needs_the_exact_number_of_ready_pods(
    server: ApiServer, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "ROLLOUT", 0.2)
    make_pods(server, release, "api", ["node-1"] * 2)
    release.wait_until_whole("api", 2, without=set())
    for replicas, without in ((1, set[str]()), (3, set[str]()), (2, release.uids("api"))):
        with pytest.raises(AssertionError, match="ready pods of the api"):
            release.wait_until_whole("api", replicas, without=without)
    (going, _) = [key for key in server.objects if key[0] == "pods"]
    server.objects[going]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    with pytest.raises(AssertionError, match="2 ready pods"):
        release.wait_until_whole("api", 2, without=set())


def test_a_drain_waits_for_the_budget(server: ApiServer, release: Release) -> None:
    make_nodes(server)
    make_pods(server, release, "api", ["node-1", "node-2"])
    server.react = lambda *_: make_pods(server, release, "api", ["node-2"])
    server.busy_evictions = 2
    cluster = release.cluster
    assert usable(cluster) == ["node-1", "node-2"]
    with cordoned(cluster, "node-1"):
        assert usable(cluster) == ["node-2"]
        drain(release, "api", "node-1")
    assert usable(cluster) == ["node-1", "node-2"]
    assert {each.spec.node_name for each in release.pods("api")} == {"node-2"}
    assert len([url for _, url, _ in server.asked if url.endswith("/eviction")]) == 3


def test_a_node_is_uncordoned_when_a_drain_fails(server: ApiServer, cluster: Cluster) -> None:
    make_nodes(server)
    with pytest.raises(ZeroDivisionError), cordoned(cluster, "node-1"):
        1 / 0  # noqa: B018
    assert usable(cluster) == ["node-1", "node-2"]


def test_secrets_are_compared_by_version_without_those_of_helm(
    server: ApiServer, release: Release
) -> None:
    server.keep("secrets", release.namespace, "keys", type="Opaque")
    server.keep("secrets", release.namespace, "sh.helm.v1", type="helm.sh/release.v1")
    before = release.secrets()
    assert set(before) == {"keys"}
    server.keep("secrets", release.namespace, "keys", type="Opaque")
    assert release.secrets() != before


def test_a_diagnosis_shows_pods_events_and_logs(server: ApiServer, cluster: Cluster) -> None:
    namespace = cluster.make_namespace()
    body = bodies._pod("x", IMAGE, ["echo", "what the pod said"])  # noqa: SLF001
    name = cluster.start_pod(namespace, body)
    cluster.end_of_pod(namespace, name, 10)
    server.keep(
        "events",
        namespace,
        "e",
        involvedObject={"kind": "Pod", "name": name},
        reason="FailedMount",
        message="no such volume",
        type="Warning",
        count=3,
    )
    server.keep("secrets", namespace, "keys", data={"keyring.json": "c2VjcmV0"})
    told = of_namespace(cluster, namespace)
    assert "what the pod said" in told
    assert f"Pod/{name} FailedMount x3: no such volume" in told
    assert "terminated 0" in told
    assert "c2VjcmV0" not in told
