"""The checker refuses exactly the pods that break a rule of the `restricted` profile."""

import copy
from typing import Any

import pytest

from chart.podsecurity import APPARMOR_ANNOTATION, RULES, SAFE_SYSCTLS, violations
from chart.release import Release

POD = {"seccompProfile": {"type": "RuntimeDefault"}, "runAsNonRoot": True}
CONTAINER = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
KINDS_OF_CONTAINERS = ["containers", "initContainers", "ephemeralContainers"]

# A rule, and a change to one container of an admitted pod that breaks only that rule.
OF_CONTAINERS: list[tuple[str, dict[str, Any]]] = [
    ("HostProcess", {"securityContext": {"windowsOptions": {"hostProcess": True}}}),
    ("Privileged containers", {"securityContext": {"privileged": True}}),
    ("Capabilities", {"securityContext": {"capabilities": {"drop": ["NET_RAW"]}}}),
    ("Capabilities", {"securityContext": {"capabilities": None}}),
    ("Capabilities", {"securityContext": {"capabilities": {"drop": ["ALL"], "add": ["CHOWN"]}}}),
    ("Host ports", {"ports": [{"containerPort": 80}, {"containerPort": 90, "hostPort": 90}]}),
    ("Host probes and lifecycle hooks", {"livenessProbe": {"httpGet": {"host": "10.0.0.1"}}}),
    ("Host probes and lifecycle hooks", {"readinessProbe": {"tcpSocket": {"host": "10.0.0.1"}}}),
    ("Host probes and lifecycle hooks", {"startupProbe": {"httpGet": {"host": "10.0.0.1"}}}),
    ("Host probes and lifecycle hooks", {"lifecycle": {"preStop": {"httpGet": {"host": "x"}}}}),
    ("AppArmor", {"securityContext": {"appArmorProfile": {"type": "Unconfined"}}}),
    ("SELinux", {"securityContext": {"seLinuxOptions": {"type": "spc_t"}}}),
    ("SELinux", {"securityContext": {"seLinuxOptions": {"user": "root"}}}),
    ("SELinux", {"securityContext": {"seLinuxOptions": {"role": "sysadm_r"}}}),
    ("/proc mount type", {"securityContext": {"procMount": "Unmasked"}}),
    ("Seccomp", {"securityContext": {"seccompProfile": {"type": "Unconfined"}}}),
    ("Privilege escalation", {"securityContext": {"allowPrivilegeEscalation": None}}),
    ("Privilege escalation", {"securityContext": {"allowPrivilegeEscalation": True}}),
    ("Running as non-root", {"securityContext": {"runAsNonRoot": False}}),
    ("Running as non-root user", {"securityContext": {"runAsUser": 0}}),
]
OF_PODS: list[tuple[str, dict[str, Any]]] = [
    ("HostProcess", {"securityContext": {"windowsOptions": {"hostProcess": True}}}),
    ("Host namespaces", {"hostNetwork": True}),
    ("Host namespaces", {"hostPID": True}),
    ("Host namespaces", {"hostIPC": True}),
    ("AppArmor", {"securityContext": {"appArmorProfile": {"type": "Unconfined"}}}),
    ("SELinux", {"securityContext": {"seLinuxOptions": {"type": "spc_t"}}}),
    ("SELinux", {"securityContext": {"seLinuxOptions": {"user": "root"}}}),
    ("SELinux", {"securityContext": {"seLinuxOptions": {"role": "sysadm_r"}}}),
    ("Seccomp", {"securityContext": {"seccompProfile": {"type": "Unconfined"}}}),
    ("Seccomp", {"securityContext": {"seccompProfile": None}}),
    ("Sysctls", {"securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}}),
    ("Running as non-root", {"securityContext": {"runAsNonRoot": None}}),
    ("Running as non-root", {"securityContext": {"runAsNonRoot": False}}),
    ("Running as non-root user", {"securityContext": {"runAsUser": 0}}),
    ("Volume types", {"volumes": [{"name": "v", "nfs": {"server": "s", "path": "/"}}]}),
    ("Volume types", {"volumes": [{"name": "v", "gitRepo": {"repository": "r"}}]}),
]
FINE: list[dict[str, Any]] = [
    {"securityContext": {"seccompProfile": {"type": "Localhost", "localhostProfile": "p"}}},
    {"securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}, "runAsUser": 65532}},
    {"securityContext": {"seLinuxOptions": {"type": "container_t", "level": "s0:c1,c2"}}},
    {
        "securityContext": {
            "sysctls": [{"name": each, "value": "1"} for each in sorted(SAFE_SYSCTLS)]
        }
    },
    {"volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "projected": {"sources": []}}]},
    {"hostNetwork": False, "hostPID": False, "hostIPC": False},
]


def fine_pod() -> dict[str, Any]:
    """Return a pod that is admitted, with a container of each kind."""
    pod: dict[str, Any] = {"securityContext": copy.deepcopy(POD)}
    for kind in KINDS_OF_CONTAINERS:
        pod[kind] = [{"name": f"of {kind}", "securityContext": copy.deepcopy(CONTAINER)}]
    return pod


def lay(change: dict[str, Any], over: dict[str, Any]) -> None:
    """Merge `change` into an object; None removes a field."""
    for name, value in change.items():
        if value is None:
            over.pop(name, None)
        elif isinstance(value, dict) and isinstance(over.get(name), dict):
            lay(value, over[name])
        else:
            over[name] = value


def broken_rules(spec: dict[str, Any], metadata: dict[str, Any] | None = None) -> set[str]:
    return {each.partition(":")[0] for each in violations(metadata or {}, spec)}


def test_a_compliant_pod_is_admitted() -> None:
    assert violations({}, fine_pod()) == []


@pytest.mark.parametrize("change", FINE, ids=str)
def test_allowed_changes_are_admitted(change: dict[str, Any]) -> None:
    pod = fine_pod()
    lay(change, pod)
    assert violations({"annotations": {f"{APPARMOR_ANNOTATION}c": "runtime/default"}}, pod) == []


@pytest.mark.parametrize("kind", KINDS_OF_CONTAINERS)
@pytest.mark.parametrize(("rule", "change"), OF_CONTAINERS, ids=str)
def test_a_container_that_breaks_a_rule_is_refused(
    kind: str, rule: str, change: dict[str, Any]
) -> None:
    pod = fine_pod()
    lay(change, pod[kind][0])
    assert broken_rules(pod) == {rule}


@pytest.mark.parametrize(("rule", "change"), OF_PODS, ids=str)
def test_a_pod_that_breaks_a_rule_is_refused(rule: str, change: dict[str, Any]) -> None:
    pod = fine_pod()
    lay(change, pod)
    assert broken_rules(pod) == {rule}


def test_a_host_path_breaks_two_rules() -> None:
    pod = fine_pod() | {"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}
    assert broken_rules(pod) == {"HostPath volumes", "Volume types"}


def test_an_annotation_cannot_disable_apparmor() -> None:
    metadata = {"annotations": {f"{APPARMOR_ANNOTATION}c": "unconfined"}}
    assert broken_rules(fine_pod(), metadata) == {"AppArmor"}


def test_a_container_may_set_what_its_pod_does_not() -> None:
    pod = fine_pod()
    del pod["securityContext"]
    assert broken_rules(pod) == {"Seccomp", "Running as non-root"}
    for kind in KINDS_OF_CONTAINERS:
        lay({"securityContext": POD}, pod[kind][0])
    assert violations({}, pod) == []


def test_every_rule_has_a_violation_in_the_tests() -> None:
    seen = {rule for rule, _ in (*OF_CONTAINERS, *OF_PODS)}
    assert seen | {"HostPath volumes"} == set(RULES)


@pytest.mark.parametrize(
    "kind", ["Pod", "Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "CronJob"]
)
def test_pods_are_found_in_every_kind_of_workload(kind: str) -> None:
    pod: dict[str, Any] = {"metadata": {"name": "x"}, "spec": {"hostPID": True}}
    made = {"spec": {"template": pod}}
    of_kind = {"Pod": pod, "CronJob": {"spec": {"jobTemplate": made}}}.get(kind, made)
    owner = {"kind": kind, "metadata": {"name": "x"}, **of_kind}
    (found,) = Release("x", "y", {}, (owner,)).pods
    assert broken_rules(dict(found.spec)) == {"Host namespaces"}


def test_every_pod_of_the_chart_is_admitted(release: Release) -> None:
    refused = {
        f"{pod} ({release.name})": found
        for pod in release.pods
        if (found := violations(pod.metadata, pod.spec))
    }
    assert release.pods
    assert refused == {}


def test_every_root_file_system_is_read_only(release: Release) -> None:
    for pod in release.pods:
        for container in pod.containers:
            context = container.get("securityContext") or {}
            assert context.get("readOnlyRootFilesystem") is True, f"{pod}: {container['name']}"
            mounted = {each["mountPath"] for each in container["volumeMounts"]}
            assert "/tmp" in mounted, f"{pod}: {container['name']}"  # noqa: S108


def test_only_pods_that_change_secrets_get_a_kubernetes_token(release: Release) -> None:
    for pod in release.pods:
        wanted = pod.component in {"secrets", "rotation"}
        assert pod.spec.get("automountServiceAccountToken") is wanted, str(pod)
    for account in release.of("ServiceAccount"):
        assert account.get("automountServiceAccountToken") is False, account["metadata"]["name"]


def test_requests_and_memory_limits_are_set(release: Release) -> None:
    for pod in release.pods:
        for container in pod.containers:
            given = container.get("resources") or {}
            assert {"cpu", "memory"} <= set(given.get("requests") or {}), str(pod)
            assert "memory" in (given.get("limits") or {}), str(pod)
