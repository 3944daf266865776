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
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4320/otlp/traces",
        },
    },
    "networkPolicy": {
        "tracing": {"ports": [4320], "to": [{"ipBlock": {"cidr": "10.4.0.1/32"}}]},
    },
}
"""Traces to a collector."""

WORDS: Mapping[str, Any] = {
    "nameOverride": "no",
    "fullnameOverride": "null",
    "image": {"pullSecrets": ["on"]},
    "redis": {"existingSecret": "no", "existingSecretKey": "1"},
    "postgres": {"existingSecret": "on", "existingSecretKey": "2"},
    "keys": {
        "existingSecret": "null",
        "existingSecretKey": "3",
        "writer": {"existingSecret": "true", "existingSecretKey": "4"},
        "rotation": {"enabled": True},
    },
    "auth": {"existingSecret": "off", "existingSecretKey": "5"},
    "probe": {
        "existingSecret": "yes",
        "existingSecretTokenKey": "6",
        "existingSecretPasswordKey": "7",
        "clientCertificate": {"existingSecret": "8"},
    },
    "api": {
        "priorityClassName": "true",
        "serviceAccount": {"name": "123"},
        "tls": {"existingSecret": "9", "clients": {"ca": {"existingSecret": "10"}}},
    },
    "writer": {"serviceAccount": {"name": "false"}},
    "canary": {"enabled": True},
    "ingress": {"enabled": True, "className": "on", "hosts": ["sensors.example.org"]},
    "httpRoute": {"enabled": True, "parentRefs": [{"name": "gate"}]},
    "metrics": {
        "podMonitor": {"enabled": True},
        "rules": {"enabled": True},
        "dashboards": {"enabled": True, "label": "null", "labelValue": "no"},
    },
}
"""Names and keys that YAML does not read as strings unless they are quoted."""
WORDS_EXISTING = {
    "no": {"1"},
    "on": {"2"},
    "null": {"3"},
    "true": {"4"},
    "off": {"5"},
    "yes": {"6", "7"},
    "8": {"tls.crt", "tls.key"},
    "9": {"tls.crt", "tls.key", "ca.crt"},
    "10": {"ca.crt"},
}
