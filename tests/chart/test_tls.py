"""TLS of the API in the chart: certificates, ports, probes and the pods that call the API."""

from typing import Any

import pytest

from chart.containers import MOUNTED, environment
from chart.made import arguments
from chart.references import files
from chart.release import Release
from chart.rendering import rendered
from chart.schemas import NEWEST


def api(release: Release) -> dict[str, Any]:
    """Return the API's container."""
    (container,) = release.pod("api").containers
    return dict(container)


def service(release: Release) -> dict[str, Any]:
    """Return the port of the API's Service."""
    (found,) = (each for name, each in release.named("Service").items() if name.endswith("-api"))
    (port,) = found["spec"]["ports"]
    return dict(port)


def mounted(release: Release, component: str) -> dict[str, str]:
    """Return the mounted files of a component, each with its Secret."""
    pod, container = release.runs(component)
    return {
        path.removeprefix(f"{MOUNTED}/"): reference.name
        for path, reference, _ in files(pod, container)
    }


@pytest.mark.parametrize(
    ("name", "scheme", "port"),
    [("own-stores", "http", 80), ("tls", "https", 443), ("mutual-tls", "https", 8443)],
)
def test_service_probes_and_callers_use_the_same_scheme(name: str, scheme: str, port: int) -> None:
    release = rendered(name, NEWEST)
    found = service(release)
    assert (found["name"], found["port"], found["appProtocol"]) == (scheme, port, scheme)
    for probe in ("readinessProbe", "startupProbe"):
        assert api(release)[probe]["httpGet"].get("scheme", "HTTP") == scheme.upper()
    # The metrics process serves http.
    assert "scheme" not in api(release)["livenessProbe"]["httpGet"]
    for component in {"test", "canary"} & {pod.component for pod in release.pods}:
        words = arguments(release.runs(component)[1])
        url = words[words.index("--url") + 1]
        assert url.startswith(f"{scheme}://iot-iot-sensor-api.sensors.svc:{port}")


def test_certificates_are_mounted_as_files_that_kubelet_replaces() -> None:
    """A mount of a single file (subPath) would keep the first certificate."""
    release = rendered("mutual-tls", NEWEST)
    assert not any(each.get("subPath") for each in api(release)["volumeMounts"])
    found = mounted(release, "api")
    assert {path: name for path, name in found.items() if path.startswith("tls/")} == {
        "tls/tls.crt": "api-tls",
        "tls/tls.key": "api-tls",
        "tls/clients/ca.crt": "devices-ca",
        "tls/clients/ca.crl": "devices-crl",
    }
    given = environment(release, api(release))
    assert given["IOT_TLS_CLIENT_CRL_FILE"] == f"{MOUNTED}/tls/clients/ca.crl"
    assert "IOT_TLS_CLIENT_REQUIRED" not in given


def test_writers_and_callers_do_not_get_the_private_key_of_the_api() -> None:
    release = rendered("mutual-tls", NEWEST)
    for pod in release.pods:
        if pod.component != "api":
            assert not any(path.endswith("tls.key") for path in mounted(release, pod.component))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("own-stores", set()),
        ("tls", set()),
        ("mutual-tls", {"--ca-file"}),
        ("required-client-certificates", {"--ca-file", "--cert-file", "--key-file"}),
    ],
)
def test_callers_trust_the_authority_and_show_their_certificate(
    name: str, options: set[str]
) -> None:
    release = rendered(name, NEWEST)
    for component in {"test", "canary"} & {pod.component for pod in release.pods}:
        words = arguments(release.runs(component)[1])
        assert {
            word for word in words if word.endswith(("ca-file", "cert-file", "key-file"))
        } == options


def test_kubelet_without_a_certificate_checks_the_port() -> None:
    release = rendered("required-client-certificates", NEWEST)
    for probe in ("readinessProbe", "startupProbe"):
        assert api(release)[probe]["tcpSocket"] == {"port": "http"}
    assert "httpGet" in api(release)["livenessProbe"]


def test_the_ingress_uses_https_to_the_pods() -> None:
    (ingress,) = rendered("tls", NEWEST).named("Ingress").values()
    backend = ingress["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]["port"]
    assert backend == {"name": "https"}
    annotations = ingress["metadata"]["annotations"]
    assert annotations["nginx.ingress.kubernetes.io/backend-protocol"] == "HTTPS"
    (plain,) = rendered("ingress", NEWEST).named("Ingress").values()
    assert "nginx.ingress.kubernetes.io/backend-protocol" not in plain["metadata"]["annotations"]


def test_each_component_has_its_client_certificate_for_the_stores() -> None:
    release = rendered("client-certificates-of-stores", NEWEST)
    for component, postgres in {
        "api": "pg-api",
        "writer": "pg-writer",
        "migrate": "pg-migration",
        "rotation": "pg-migration",
    }.items():
        found = mounted(release, component)
        for file in ("client.crt", "client.key"):
            assert found[f"postgres/{file}"] == postgres
            assert found.get(f"redis/{file}", "redis-tls") == "redis-tls"
        assert ("redis/client.key" in found) is (component != "migrate")
