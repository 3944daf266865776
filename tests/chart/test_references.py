"""References between objects are valid: names, labels, ports, Secrets and their keys."""

import re
from collections.abc import Collection, Mapping

import pytest

from chart.made import arguments, secrets_made, secrets_required
from chart.matrix import MATRIX
from chart.references import references
from chart.release import COMPONENT, Object, Pod, Release, hooks, name_of, title
from chart.rendering import ROOT, rendered
from chart.schemas import NEWEST

SELECTOR_LABELS = {f"app.kubernetes.io/{each}" for each in ("name", "instance", "component")}

OWN_WRITER_KEYS = {
    "own-writer-keys": "my-keys",
    "key-rotation-of-own-secrets": "my-keys",
    "words-of-yaml": "null",
}
"""Values that name both an existing keyring, here its Secret, and existing keys of the writers."""
PULL_SECRETS = ("my-registry", "my-other-registry", "registry", "on")


def chosen(release: Release, selector: Object) -> list[Pod]:
    """Return the pods that have the labels of a selector."""
    assert selector, "an empty selector selects every pod of the namespace"
    return [each for each in release.pods if selector.items() <= each.labels.items()]


def test_workloads_select_their_pods_by_stable_labels(release: Release) -> None:
    for each in release.of("Deployment", "StatefulSet"):
        selector = each["spec"]["selector"]["matchLabels"]
        assert set(selector) == SELECTOR_LABELS, title(each)
        assert [pod.owner for pod in chosen(release, selector)] == [each]


def test_no_pod_label_depends_on_the_version(release: Release) -> None:
    """Otherwise, every upgrade of the chart would restart unchanged pods."""
    for pod in release.pods:
        if pod.owner["kind"] in {"Deployment", "StatefulSet"}:
            assert not {"helm.sh/chart", "app.kubernetes.io/version"} & set(pod.labels), str(pod)


def test_services_target_ports_of_pods(release: Release) -> None:
    for each in release.of("Service"):
        selector = each["spec"]["selector"]
        assert set(selector) == SELECTOR_LABELS, title(each)
        (pod,) = chosen(release, selector)
        for port in each["spec"]["ports"]:
            assert port["targetPort"] in ports(pod), f"{title(each)}: {port}"


def ports(pod: Pod) -> dict[str, int]:
    """Return the ports of a pod by their names, which must be unique."""
    found = [
        (port["name"], port["containerPort"])
        for container in pod.containers
        for port in container.get("ports") or ()
    ]
    assert len(found) == len(dict(found)), str(pod)
    return dict(found)


def test_probes_use_existing_ports(release: Release) -> None:
    for pod in release.pods:
        for container in pod.containers:
            for kind in ("liveness", "readiness", "startup"):
                probe = container.get(f"{kind}Probe") or {}
                for handler in ("httpGet", "tcpSocket"):
                    if handler in probe:
                        assert probe[handler]["port"] in ports(pod), str(pod)


def test_routes_target_services(release: Release) -> None:
    services = release.named("Service")
    backends = [
        (path["backend"]["service"]["name"], path["backend"]["service"]["port"])
        for each in release.of("Ingress")
        for rule in each["spec"]["rules"]
        for path in rule["http"]["paths"]
    ]
    backends += [
        (backend["name"], {"number": backend["port"]})
        for each in release.of("HTTPRoute")
        for rule in each["spec"]["rules"]
        for backend in rule["backendRefs"]
    ]
    for name, wanted in backends:
        given = services[name]["spec"]["ports"]
        assert wanted in [{"name": port["name"]} for port in given] + [
            {"number": port["port"]} for port in given
        ]
        assert services[name]["spec"]["selector"][COMPONENT] == "api"


def test_policies_and_budgets_select_pods(release: Release) -> None:
    for each in release.of("PodDisruptionBudget", "NetworkPolicy"):
        field = "selector" if each["kind"] == "PodDisruptionBudget" else "podSelector"
        selector = each["spec"][field]["matchLabels"]
        assert set(selector) == SELECTOR_LABELS, title(each)
        assert len(chosen(release, selector)) == 1, title(each)


def test_each_pod_has_one_network_policy(release: Release) -> None:
    if release.name == "no-network-policies":
        assert release.of("NetworkPolicy") == []
        return
    covered = [
        str(pod)
        for each in release.of("NetworkPolicy")
        for pod in chosen(release, each["spec"]["podSelector"]["matchLabels"])
    ]
    assert sorted(covered) == sorted(map(str, release.pods))
    for each in release.of("NetworkPolicy"):
        assert set(each["spec"]["policyTypes"]) == {"Ingress", "Egress"}, title(each)


def test_network_policies_open_existing_ports(release: Release) -> None:
    for each in release.of("NetworkPolicy"):
        (pod,) = chosen(release, each["spec"]["podSelector"]["matchLabels"])
        for rule in each["spec"].get("ingress") or ():
            for port in rule["ports"]:
                assert port["port"] in ports(pod).values(), title(each)
            for peer in rule.get("from") or ():
                if "namespaceSelector" not in peer and "ipBlock" not in peer:
                    wanted = peer["podSelector"]["matchLabels"]
                    may_be_absent = wanted[COMPONENT] == "canary"
                    assert chosen(release, wanted) or may_be_absent, title(each)
        for rule in each["spec"].get("egress") or ():
            for peer in rule.get("to") or ():
                if set(peer) == {"podSelector"}:
                    (other,) = chosen(release, peer["podSelector"]["matchLabels"])
                    assert {port["port"] for port in rule["ports"]} <= set(ports(other).values())


def test_scaled_deployments_exist_and_set_no_replicas(release: Release) -> None:
    scaled = [
        each["spec"]["scaleTargetRef"]["name"]
        for each in release.of("HorizontalPodAutoscaler", "ScaledObject")
    ]
    assert len(scaled) == len(set(scaled)), "a deployment is scaled twice"
    deployments = release.named("Deployment")
    assert set(scaled) <= set(deployments)
    for name, each in deployments.items():
        assert ("replicas" in each["spec"]) == (name not in scaled), name


def test_monitors_select_existing_ports(release: Release) -> None:
    for each in release.of("ServiceMonitor"):
        selector = each["spec"]["selector"]["matchLabels"]
        found = [
            service
            for service in release.of("Service")
            if selector.items() <= service["metadata"]["labels"].items()
        ]
        assert found, title(each)
        wanted = {endpoint["port"] for endpoint in each["spec"]["endpoints"]}
        for service in found:
            assert wanted <= {port["name"] for port in service["spec"]["ports"]}, title(service)
    for each in release.of("PodMonitor"):
        found_pods = chosen(release, each["spec"]["selector"]["matchLabels"])
        assert found_pods, title(each)
        wanted = {endpoint["port"] for endpoint in each["spec"]["podMetricsEndpoints"]}
        scraped = {pod.component for pod in found_pods if wanted <= set(ports(pod))}
        assert {"api", "writer"} <= scraped, title(each)


def test_spread_constraints_select_their_pod(release: Release) -> None:
    for pod in release.pods:
        for each in pod.spec.get("topologySpreadConstraints") or ():
            assert chosen(release, each["labelSelector"]["matchLabels"]) == [pod], str(pod)


def test_each_volume_has_a_mount_and_each_mount_a_volume(release: Release) -> None:
    for pod in release.pods:
        volumes = [each["name"] for each in pod.spec.get("volumes") or ()]
        claims = pod.owner["spec"].get("volumeClaimTemplates") or ()
        volumes += [name_of(each) for each in claims]
        mounted = [
            mount["name"]
            for container in pod.containers
            for mount in container.get("volumeMounts") or ()
        ]
        assert len(volumes) == len(set(volumes)), str(pod)
        assert set(volumes) == set(mounted), str(pod)


def test_objects_that_a_pod_refers_to_exist(release: Release) -> None:
    made = secrets_made(release)
    existing = MATRIX[release.name].existing
    maps = {name: set(each.get("data") or ()) for name, each in release.named("ConfigMap").items()}
    known: dict[str, Mapping[str, Collection[str]]] = {
        "Secret": {**existing, **made},
        "ConfigMap": {**existing, **maps},
        "PersistentVolumeClaim": release.named("PersistentVolumeClaim"),
        "pull Secret": {each: set[str]() for each in PULL_SECRETS},
    }
    assert not set(made) & set(existing)
    for pod in release.pods:
        for each in references(pod):
            assert each.name in known[each.kind], f"{pod}: {each}"
            assert each.keys <= set(known[each.kind][each.name]), f"{pod}: {each}"


def test_the_hook_requires_every_secret_in_the_values(release: Release) -> None:
    """The hook names a missing Secret before pods wait in ContainerCreating.

    It does not look for an existing keyring if the writers' keys exist too: operators set both so
    that the hook can't read the keyring.
    """
    made = secrets_made(release)
    used: dict[str, set[str]] = {}
    for pod in release.pods:
        for each in references(pod):
            if each.kind == "Secret" and each.name not in made and each.keys:
                used.setdefault(each.name, set()).update(each.keys)
    if release.name in OWN_WRITER_KEYS:
        del used[OWN_WRITER_KEYS[release.name]]
    assert secrets_required(release) == used


def test_service_accounts_exist_and_are_used(release: Release) -> None:
    accounts = set(release.named("ServiceAccount"))
    named_by_values = {"own-accounts": {"my-writer"}}.get(release.name, set())
    for pod in release.pods:
        account = pod.spec.get("serviceAccountName", "default")
        assert account in accounts | named_by_values | {"default"}, str(pod)
    used = {pod.spec.get("serviceAccountName") for pod in release.pods}
    assert accounts <= used, "an account that no pod uses"
    for binding in release.of("RoleBinding"):
        assert binding["roleRef"]["name"] in release.named("Role")
        for subject in binding["subjects"]:
            assert subject["name"] in accounts
            assert subject["namespace"] == release.namespace


def test_the_role_allows_only_the_secrets_of_the_hook(release: Release) -> None:
    (role,) = (each for each in release.of("Role") if name_of(each).endswith("-secrets"))
    made, required = secrets_made(release), secrets_required(release)
    rules = {tuple(rule["verbs"]): rule for rule in role["rules"]}
    derived = {name for name, keys in made.items() if keys == {"writer-keys.json"}}
    verbs = {("get",): True, ("create",): bool(made), ("update",): bool(derived)}
    assert set(rules) == {verb for verb, needed in verbs.items() if needed}
    if derived:
        assert set(rules["update",]["resourceNames"]) == derived
    assert set(rules["get",]["resourceNames"]) == {*made, *required}
    for rule in rules.values():
        assert rule["apiGroups"] == [""]
        assert rule["resources"] == ["secrets"]


def test_the_rotation_may_change_only_the_two_secrets_with_keys(release: Release) -> None:
    roles = [each for each in release.of("Role") if name_of(each).endswith("-rotation")]
    assert len(roles) == len(release.of("CronJob"))
    for role in roles:
        (container,) = release.pod("rotation").containers
        words = arguments(container)
        named = {words[words.index(option) + 1] for option in ("--secret", "--writer-secret")}
        (rule,) = role["rules"]
        assert rule["resources"] == ["secrets"]
        assert set(rule["resourceNames"]) == named
        assert set(rule["verbs"]) == {"get", "update"}
        keyring, writer = (release.runs(each)[0] for each in ("api", "writer"))
        mounted = {each.name for pod in (keyring, writer) for each in references(pod)}
        assert named <= mounted


@pytest.mark.parametrize("name", ["own-writer-keys", "key-rotation-of-own-secrets"])
def test_the_hook_may_not_read_a_keyring_that_it_does_not_need(name: str) -> None:
    (role,) = (
        each for each in rendered(name, NEWEST).of("Role") if name_of(each).endswith("-secrets")
    )
    named = {secret for rule in role["rules"] for secret in rule.get("resourceNames", ())}
    assert "my-writer-keys" in named
    assert "my-keys" not in named


@pytest.mark.parametrize("name", ["demo", "long-name"])
def test_hosts_in_secrets_are_services_of_the_stores(name: str) -> None:
    release = rendered(name, NEWEST)
    (container,) = release.pod("secrets").containers
    words = [*container["command"], *container["args"]]
    for store in ("redis", "postgres"):
        host = words[words.index(f"--{store}-host") + 1]
        service = release.named("Service")[host]
        assert service["spec"]["selector"][COMPONENT] == store


@pytest.mark.parametrize("text", ["docs/quickstart.md", "charts/iot-sensor/values-demo.yaml"])
def test_documents_install_the_demo_under_the_name_of_the_tests(text: str) -> None:
    names = re.findall(r"helm install (\S+)", (ROOT / text).read_text(encoding="utf-8"))
    assert names == [MATRIX["demo"].release]


def test_the_quickstart_connects_to_a_service_of_the_demo() -> None:
    text = (ROOT / "docs/quickstart.md").read_text(encoding="utf-8")
    found = re.findall(r"port-forward service/(\S+) \d+:(\d+)", text)
    services = rendered("demo", NEWEST).named("Service")
    assert len(found) == 1
    for name, port in found:
        assert int(port) in [each["port"] for each in services[name]["spec"]["ports"]]


def test_hooks_need_only_hooks(release: Release) -> None:
    """A pod that runs before the release exists must not refer to its objects."""
    parts = {(each["kind"], name_of(each)) for each in release.objects if not hooks(each)}
    for pod in release.pods:
        if hooks(pod.owner) & {"pre-install", "pre-upgrade"}:
            needed = {(each.kind, each.name) for each in references(pod)}
            needed.add(("ServiceAccount", pod.spec.get("serviceAccountName", "default")))
            assert not needed & parts, str(pod)
