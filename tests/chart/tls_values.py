"""Sets of values for TLS of the API and for client certificates, each with its existing Secrets."""

from collections.abc import Mapping
from typing import Any

TLS: Mapping[str, tuple[Mapping[str, Any], Mapping[str, set[str]]]] = {
    "tls": (
        {
            "api": {"tls": {"existingSecret": "api-tls", "existingSecretCaKey": ""}},
            "ingress": {"enabled": True, "hosts": ["sensors.example.org"]},
            "canary": {"enabled": True},
        },
        {"api-tls": {"tls.key", "tls.crt"}},
    ),
    "mutual-tls": (
        {
            "api": {
                "tls": {
                    "existingSecret": "api-tls",
                    "clients": {
                        "ca": {"existingSecret": "devices-ca"},
                        "crl": {"existingSecret": "devices-crl", "existingSecretKey": "list.pem"},
                    },
                },
                "service": {"port": 8443},
            },
            "canary": {"enabled": True},
        },
        {
            "api-tls": {"tls.key", "tls.crt", "ca.crt"},
            "devices-ca": {"ca.crt"},
            "devices-crl": {"list.pem"},
        },
    ),
    "required-client-certificates": (
        {
            "api": {
                "tls": {
                    "existingSecret": "api-tls",
                    "clients": {"ca": {"existingSecret": "api-tls"}, "required": True},
                }
            },
            "probe": {"clientCertificate": {"existingSecret": "probe-tls"}},
            "canary": {"enabled": True},
        },
        {"api-tls": {"tls.key", "tls.crt", "ca.crt"}, "probe-tls": {"tls.key", "tls.crt"}},
    ),
    "client-certificates-of-stores": (
        {
            "keys": {"rotation": {"enabled": True}},
            "redis": {
                "ca": {"existingSecret": "redis-tls"},
                "clientCertificate": {"existingSecret": "redis-tls"},
            },
            "postgres": {
                "ca": {"existingSecret": "pg-ca"},
                "clientCertificate": {"existingSecretCertificateKey": "cert"},
                "api": {"clientCertificateSecret": "pg-api"},
                "writer": {"clientCertificateSecret": "pg-writer"},
                "migration": {"clientCertificateSecret": "pg-migration"},
            },
        },
        {
            "redis-tls": {"tls.key", "tls.crt", "ca.crt"},
            "pg-ca": {"ca.crt"},
            "pg-api": {"cert", "tls.key"},
            "pg-writer": {"cert", "tls.key"},
            "pg-migration": {"cert", "tls.key"},
        },
    ),
}
