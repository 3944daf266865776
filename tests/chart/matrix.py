"""Sets of values for the chart; each feature of the chart is in one of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from chart.exposure_values import EXPOSURE
from chart.extras import BEHAVIOR, DIGEST, EXTRAS, SCHEDULING, TRACING, WORDS, WORDS_EXISTING
from chart.monitoring_values import MONITORING
from chart.tls_values import TLS

Values = Mapping[str, Any]


@dataclass(frozen=True)
class ValuesSet:
    """Values, value files of the chart below them, and existing objects of the namespace."""

    values: Values = field(default_factory=dict)
    files: tuple[str, ...] = ()
    release: str = "iot"
    namespace: str = "sensors"
    existing: Mapping[str, set[str]] = field(default_factory=dict)
    """Existing Secrets and ConfigMaps that the values refer to, with their keys."""


def merged(*given: Values) -> dict[str, Any]:
    """Return merged values; later values override earlier ones."""
    result: dict[str, Any] = {}
    for each in given:
        for name, value in each.items():
            below = result.get(name)
            if isinstance(value, Mapping) and isinstance(below, Mapping):
                result[name] = merged(below, value)
            else:
                result[name] = value
    return result


OWN: Values = {"redis": {"existingSecret": "my-redis"}, "postgres": {"existingSecret": "my-pg"}}
OWN_SECRETS = {"my-redis": {"url"}, "my-pg": {"url"}}


def own(*values: Values, existing: Mapping[str, set[str]] | None = None) -> ValuesSet:
    """Return a set of values with an external Redis and Postgres."""
    return ValuesSet(merged(OWN, *values), existing={**OWN_SECRETS, **(existing or {})})


def keys(*components: str) -> Values:
    """Return values that read the URL of each component from a separate key of one Secret."""
    return {each: {"existingSecretKey": each} for each in components}


def secrets(store: str, *components: str) -> Values:
    """Return values that read the URL of each component from a separate Secret."""
    return {each: {"existingSecret": f"{store}-{each}"} for each in components}


MATRIX: dict[str, ValuesSet] = {
    "demo": ValuesSet({"logs": {"format": "text"}}, files=("values-demo.yaml",)),
    "production": ValuesSet(
        files=("values-production.yaml",),
        existing={
            "iot-redis": {"api", "writer", "ca.crt"},
            "iot-postgres": {"api", "writer", "migration", "ca.crt"},
        },
    ),
    "own-stores": own(),
    "own-keys-of-secrets": own(
        {
            "redis": {"existingSecretKey": "redis-url"},
            "postgres": {"existingSecretKey": "uri", "ca": {"existingSecret": "pg-ca"}},
            "keys": {"existingSecret": "my-keys", "existingSecretKey": "ring"},
            "auth": {"existingSecret": "my-tokens", "existingSecretKey": "list"},
            "probe": {
                "existingSecret": "my-probe",
                "existingSecretTokenKey": "t",
                "existingSecretPasswordKey": "p",
            },
        },
        existing={
            "my-redis": {"redis-url"},
            "my-pg": {"uri"},
            "pg-ca": {"ca.crt"},
            "my-keys": {"ring"},
            "my-tokens": {"list"},
            "my-probe": {"t", "p"},
        },
    ),
    "own-writer-keys": own(
        {"keys": {"existingSecret": "my-keys"}},
        {"keys": {"writer": {"existingSecret": "my-writer-keys", "existingSecretKey": "w"}}},
        existing={"my-keys": {"keyring.json"}, "my-writer-keys": {"w"}},
    ),
    "users-in-one-secret": own(
        {"redis": keys("api", "writer"), "postgres": keys("api", "writer", "migration")},
        {"redis": {"hotWindow": {"existingSecret": "my-hot", **keys("api", "writer")}}},
        existing={each: {"api", "writer", "migration"} for each in ("my-redis", "my-hot", "my-pg")},
    ),
    "users-in-secrets-of-their-own": ValuesSet(
        {
            "redis": {
                **secrets("redis", "api", "writer"),
                "hotWindow": secrets("hot", "api", "writer"),
            },
            "postgres": secrets("pg", "api", "writer", "migration"),
        },
        existing={
            f"{store}-{component}": {"url"}
            for store in ("redis", "hot", "pg")
            for component in ("api", "writer", "migration")
        },
    ),
    "urls-but-for-the-writer": ValuesSet(
        {
            "redis": {"url": "redis://redis.example.org:6379/0", **secrets("redis", "writer")},
            "postgres": {"internal": {"enabled": True}, **secrets("pg", "writer")},
        },
        existing={"redis-writer": {"url"}, "pg-writer": {"url"}},
    ),
    "key-rotation": own(
        {
            "keys": {"rotation": {"enabled": True, "suspend": True}},
            "redis": keys("api", "writer", "rotation"),
            "postgres": keys("api", "writer", "migration"),
        },
        existing={
            "my-redis": {"api", "writer", "rotation"},
            "my-pg": {"api", "writer", "migration"},
        },
    ),
    "key-rotation-of-own-secrets": ValuesSet(
        {
            "keys": {
                "existingSecret": "my-keys",
                "existingSecretKey": "ring",
                "writer": {"existingSecret": "my-writer-keys"},
                "rotation": {"enabled": True, "schedule": "@monthly"},
            },
            "redis": {
                "url": "redis://redis.example.org:6379/0",
                **secrets("redis", "rotation"),
                "hotWindow": {"url": "redis://hot.example.org/1"},
            },
            "postgres": {"internal": {"enabled": True}},
            "migrations": {"enabled": False},
        },
        existing={
            "my-keys": {"ring"},
            "my-writer-keys": {"writer-keys.json"},
            "redis-rotation": {"url"},
        },
    ),
    "key-rotation-of-the-demo": ValuesSet(
        {"keys": {"rotation": {"enabled": True}}}, files=("values-demo.yaml",)
    ),
    "urls": ValuesSet(
        {
            "redis": {"url": "redis://redis.example.org:6379/0"},
            "postgres": {"url": "postgresql://iot@postgres.example.org/iot"},
        }
    ),
    "sentinel": ValuesSet(
        {
            "redis": {
                "url": "redis+sentinel://one.example.org:26379,two.example.org:26379/main/0",
                "ca": {"existingSecret": "redis-ca"},
            },
            "postgres": {"existingSecret": "my-pg"},
        },
        existing={"my-pg": {"url"}, "redis-ca": {"ca.crt"}},
    ),
    "hot-window": own(
        {"redis": {"hotWindow": {"existingSecret": "my-hot"}}}, existing={"my-hot": {"url"}}
    ),
    "hot-window-url": own({"redis": {"hotWindow": {"url": "redis://hot.example.org/1"}}}),
    "hpas": own(
        {
            "api": {"hpa": {"enabled": True, "minReplicas": 3, "maxReplicas": 30}},
            "writer": {
                "hpa": {
                    "enabled": True,
                    "targetCPUUtilizationPercentage": None,
                    "behavior": BEHAVIOR,
                    "metrics": [
                        {
                            "type": "External",
                            "external": {
                                "metric": {"name": "iot_backlog_oldest_seconds"},
                                "target": {"type": "Value", "value": "5"},
                            },
                        }
                    ],
                }
            },
        }
    ),
    "keda": own(
        {
            "shards": 16,
            "writer": {"keda": {"enabled": True, "minReplicas": 2, "maxReplicas": 16}},
        }
    ),
    "keda-prometheus": own(
        {
            "writer": {
                "keda": {
                    "enabled": True,
                    "trigger": "prometheus",
                    "prometheus": {
                        "serverAddress": "http://prometheus.monitoring.svc:9090",
                        "authModes": "bearer",
                        "authenticationRef": {"name": "mine", "kind": "TriggerAuthentication"},
                    },
                    "fallback": None,
                    "behavior": BEHAVIOR,
                    "annotations": {"example.org/team": "sensors"},
                }
            }
        }
    ),
    **{name: own(values) for name, values in EXPOSURE.items()},
    **{name: own(values) for name, values in MONITORING.items()},
    **{name: own(values, existing=existing) for name, (values, existing) in TLS.items()},
    "open": own({"auth": {"enabled": False}}),
    "old-clients": own({"auth": {"anonymousScopes": ["ingest", "read"]}}),
    "canary": own({"canary": {"enabled": True, "everySeconds": 5}}),
    "open-canary": own(
        {
            "auth": {"enabled": False},
            "canary": {"enabled": True},
            "redis": {"hotWindow": {"existingSecret": "my-hot"}},
        },
        existing={"my-hot": {"url"}},
    ),
    "ipv6": own({"bindAddress": "::", "canary": {"enabled": True}}),
    "openshift": own(
        {
            "openshift": True,
            "networkPolicy": {"dns": {"ports": [53, 5353]}},
            "canary": {"enabled": True},
        }
    ),
    "dotted-tokens": own({"auth": {"initialTokens": [{"name": "a.b", "scopes": ["ingest"]}]}}),
    "no-network-policies": own({"networkPolicy": {"enabled": False}}),
    "narrow-network-policies": own(
        {
            "networkPolicy": {
                "apiFrom": [{"namespaceSelector": {"matchLabels": {"name": "ingress"}}}],
                "metricsFrom": [],
                "dns": {"to": [{"ipBlock": {"cidr": "10.96.0.10/32"}}]},
                "redis": {"ports": [6379], "to": [{"ipBlock": {"cidr": "10.1.0.0/16"}}]},
                "postgres": {"ports": [5432], "to": [{"ipBlock": {"cidr": "10.2.0.0/16"}}]},
                "kubernetesApi": {"ports": [6443], "to": [{"ipBlock": {"cidr": "10.3.0.1/32"}}]},
                "extraEgress": [{"ports": [{"port": 4317, "protocol": "TCP"}]}],
            },
        },
        TRACING,
    ),
    "nothing-optional": own(
        {
            "api": {"pdb": {"enabled": False}, "serviceAccount": {"create": False}},
            "writer": {"pdb": {"enabled": False}, "serviceAccount": {"create": False}},
            "migrations": {"enabled": False},
        }
    ),
    "own-accounts": own(
        {
            "api": {"serviceAccount": {"name": "my-api", "annotations": {"example.org/role": "a"}}},
            "writer": {"serviceAccount": {"create": False, "name": "my-writer"}},
        }
    ),
    "long-name": ValuesSet(
        {
            "redis": {"internal": {"enabled": True}},
            "postgres": {"internal": {"enabled": True}},
            "canary": {"enabled": True},
        },
        release="my-release-with-a-name-of-as-many-letters-as-helm-has",
    ),
    "name-override": own({"nameOverride": "collector", "canary": {"enabled": True}}),
    "fullname-override": own({"fullnameOverride": "collector", "canary": {"enabled": True}}),
    "words-of-yaml": ValuesSet(WORDS, (), "2024", "123", WORDS_EXISTING),
    "extras": own(
        {
            "commonLabels": {"example.org/cost": "42"},
            "api": {**EXTRAS, "service": {"annotations": {"example.org/a": "b"}}},
            "writer": EXTRAS,
            "jobs": {name: EXTRAS[name] for name in ("extraEnv", "podAnnotations", "podLabels")},
            "extraObjects": [
                {
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "metadata": {"name": "{{ .Release.Name }}-of-mine"},
                    "data": {"a": "b"},
                },
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: '{{ .Release.Name }}-text'}\n",
            ],
        },
        existing={"my-config": set(), "my-files": set()},
    ),
    "scheduling": own(
        {
            "api": SCHEDULING,
            "writer": SCHEDULING,
            "jobs": SCHEDULING,
            "canary": {"enabled": True, **SCHEDULING},
        }
    ),
    "images": own(
        {
            "image": {
                "registry": "registry.example.org:5000/mirror",
                "pullPolicy": "Always",
                "pullSecrets": ["my-registry", "my-other-registry"],
            },
            "api": {"image": {"digest": DIGEST}},
            "writer": {"image": {"registry": "other.example.org", "tag": "9.9.9"}},
        }
    ),
    "other-ports": ValuesSet(
        {
            "redis": {
                "url": "redis+sentinel://one.example.org:26380,two.example.org/main/0",
                "hotWindow": {"url": "rediss://[2001:db8::6]:16379/1"},
            },
            "postgres": {
                "url": "postgresql://iot@one.example.org:6543,two.example.org:6544/iot?sslmode=require"
            },
        }
    ),
    "many": own(
        {
            "shards": 64,
            "retention": {"days": 3650},
            "config": {"IOT_BACKLOG_MAX_BYTES": 8589934592, "IOT_VAULT_CACHE_SIZE": 1000000},
            "api": {
                "replicas": 20,
                "workers": 4,
                "connections": 1000000,
                "trustedProxies": 2,
                "rateLimits": {"perAddress": 0, "perToken": 1},
            },
            "writer": {"replicas": 64},
        }
    ),
}
