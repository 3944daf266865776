"""The cluster accepts optional objects of the chart whose kinds it knows."""

from collections.abc import Mapping

import pytest
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import ResourceNotFoundError

from e2e.cluster import Cluster
from e2e.helm import Helm
from e2e.release import NAME, Release

ON = "true"
OPTIONAL_KINDS: Mapping[str, Mapping[str, str]] = {
    "HorizontalPodAutoscaler": {"api.hpa.enabled": ON, "writer.hpa.enabled": ON},
    "ScaledObject": {"writer.keda.enabled": ON},
    "Ingress": {"ingress.enabled": ON, "ingress.hosts[0]": "iot-e2e.example.org"},
    "HTTPRoute": {"httpRoute.enabled": ON, "httpRoute.parentRefs[0].name": "gateway"},
    "PodMonitor": {"metrics.podMonitor.enabled": ON},
    "ServiceMonitor": {"metrics.serviceMonitor.enabled": ON},
    "PrometheusRule": {"metrics.rules.enabled": ON},
}


@pytest.mark.parametrize("kind", OPTIONAL_KINDS)
def test_optional_objects_are_accepted(
    kind: str, cluster: Cluster, helm: Helm, uninstalled: Release
) -> None:
    """A dry run on the server validates and admits the objects without storing them."""
    chart = uninstalled.chart.with_settings(OPTIONAL_KINDS[kind])
    made = helm.render(chart, NAME, uninstalled.namespace)
    wanted = [each for each in made if each["kind"] == kind]
    assert wanted, f"the chart makes no {kind}"
    dynamic = DynamicClient(cluster.api)
    for each in wanted:
        try:
            resource = dynamic.resources.get(api_version=each["apiVersion"], kind=kind)
        except ResourceNotFoundError:
            pytest.skip(f"this cluster has no {kind} of {each['apiVersion']}")
        resource.create(each, namespace=uninstalled.namespace, dry_run="All")
