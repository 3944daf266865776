"""Values that several components of the chart accept."""

from collections.abc import Mapping
from typing import Any

DIGEST = f"sha256:{'0123456789abcdef' * 4}"
SCHEDULING: Mapping[str, Any] = {
    "priorityClassName": "high",
    "nodeSelector": {"kubernetes.io/arch": "amd64"},
    "tolerations": [{"key": "sensors", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {
        "podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [
                {
                    "topologyKey": "kubernetes.io/hostname",
                    "labelSelector": {
                        "matchLabels": {"app.kubernetes.io/instance": "{{ .Release.Name }}"}
                    },
                }
            ]
        }
    },
}
EXTRAS: Mapping[str, Any] = {
    "extraEnv": [
        {"name": "IOT_LOG_LEVEL", "value": "DEBUG"},
        {"name": "HOST", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
    ],
    "extraEnvFrom": [{"configMapRef": {"name": "my-config"}}],
    "extraVolumes": [{"name": "mine", "secret": {"secretName": "my-files"}}],
    "extraVolumeMounts": [{"name": "mine", "mountPath": "/mine", "readOnly": True}],
    "podAnnotations": {"example.org/team": "sensors"},
    "podLabels": {"example.org/team": "sensors"},
    "annotations": {"example.org/owner": "sensors"},
}
BEHAVIOR: Mapping[str, Any] = {
    "scaleDown": {
        "stabilizationWindowSeconds": 600,
        "policies": [{"type": "Pods", "value": 1, "periodSeconds": 120}],
    }
}

TRACING: dict[str, Any] = {
    "tracing": {
        "endpoint": "http://collector:4320",
        "sampler": "traceidratio",
        "ratio": 0.5,
        "variables": {
            "OTEL_RESOURCE_ATTRIBUTES": "k8s.cluster.name=a",
            "OTEL_BSP_SCHEDULE_DELAY": 1000,
        },
    },
    "networkPolicy": {
        "tracing": {"ports": [4320], "to": [{"ipBlock": {"cidr": "10.4.0.1/32"}}]},
    },
}
"""Traces to a collector."""
