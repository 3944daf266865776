"""Sets of values that expose the API: the Service, an Ingress or an HTTPRoute."""

from collections.abc import Mapping
from typing import Any

EXPOSURE: Mapping[str, Mapping[str, Any]] = {
    "ingress": {
        "ingress": {
            "enabled": True,
            "className": "nginx",
            "hosts": ["sensors.example.org", "other.example.org"],
            "tls": [{"hosts": ["sensors.example.org"], "secretName": "sensors-tls"}],
            "annotations": {"cert-manager.io/cluster-issuer": "main"},
        }
    },
    "no-page": {
        "api": {"page": False},
        "ingress": {"enabled": True, "hosts": ["sensors.example.org"]},
    },
    "http-route": {
        "httpRoute": {
            "enabled": True,
            "parentRefs": [{"name": "gate", "namespace": "gates", "sectionName": "https"}],
            "hostnames": ["sensors.example.org"],
            "timeouts": {"request": "0s"},
            "annotations": {"example.org/team": "sensors"},
        }
    },
    "outside": {
        "api": {
            "service": {
                "type": "LoadBalancer",
                "port": 8080,
                "loadBalancerSourceRanges": ["10.0.0.0/8"],
            },
            "pdb": {"maxUnavailable": "25%"},
        }
    },
    "node-port": {
        "api": {
            "service": {
                "type": "NodePort",
                "nodePort": 30080,
                "externalTrafficPolicy": "Local",
                "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 600}},
            }
        }
    },
    "both-ip-families": {
        "bindAddress": "::",
        "api": {
            "service": {
                "type": "LoadBalancer",
                "loadBalancerClass": "example.org/internal",
                "externalTrafficPolicy": "Local",
                "ipFamilyPolicy": "RequireDualStack",
                "ipFamilies": ["IPv6", "IPv4"],
            }
        },
    },
}
