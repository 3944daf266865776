"""Values that contradict each other, each with the sentence of the refusal."""

from typing import Any

from chart.matrix import merged

WITHOUT_KEYS: list[tuple[str, str, str, dict[str, Any]]] = [
    ("Redis", "redis", "existingSecretKey", {}),
    ("Postgres", "postgres", "existingSecretKey", {}),
    ("keys", "keys", "existingSecretKey", {}),
    ("tokens", "auth", "existingSecretKey", {"probe": {"existingSecret": "p"}}),
    ("the probe's token", "probe", "existingSecretTokenKey", {}),
    ("the probe's password", "probe", "existingSecretPasswordKey", {}),
]
SENTENCES: dict[str, tuple[dict[str, Any], str]] = {
    "no Redis": (
        {"redis": {"existingSecret": ""}},
        "No Redis: set redis.existingSecret to a Secret that holds its URL",
    ),
    "two of Postgres": (
        {"postgres": {"internal": {"enabled": True}}},
        "Postgres: set only one of postgres.existingSecret, postgres.internal.enabled.",
    ),
    "two of Redis": (
        {"redis": {"url": "redis://r"}},
        "More than one Redis: set only one of redis.existingSecret, redis.url.",
    ),
    "two hot windows": (
        {"redis": {"hotWindow": {"existingSecret": "h", "url": "redis://r"}}},
        "set only one of redis.hotWindow.existingSecret, redis.hotWindow.url.",
    ),
    "a password in the URL of Redis": (
        {"redis": {"existingSecret": "", "url": "redis://:hush@r"}},
        "redis.url holds a password",
    ),
    "a password in the URL of Postgres": (
        {"postgres": {"existingSecret": "", "url": "postgresql://u:hush@p/d"}},
        "put the URL into a Secret and set postgres.existingSecret.",
    ),
    "a password in the query of Postgres": (
        {"postgres": {"existingSecret": "", "url": "postgresql://p/d?user=u&password=hush"}},
        "put the URL into a Secret and set postgres.existingSecret.",
    ),
    "a password of the Sentinels": (
        {"redis": {"existingSecret": "", "url": "redis+sentinel://h/m/0?sentinel_password=hush"}},
        "redis.url holds a password",
    ),
    "a password of a private key": (
        {"postgres": {"existingSecret": "", "url": "postgresql://p/d?sslpassword=hush"}},
        "postgres.url holds a password",
    ),
    "a rotation without a user of Redis": (
        {
            "redis": {
                "existingSecret": "",
                "api": {"existingSecret": "a"},
                "writer": {"existingSecret": "w"},
            },
            "keys": {"rotation": {"enabled": True}},
        },
        "keys.rotation needs a URL of redis: set redis.rotation.existingSecret.",
    ),
    "a key without a Secret": (
        {"keys": {"existingSecretKey": "mine.json"}},
        "set keys.existingSecret as well.",
    ),
    "a writer's key without a Secret": (
        {"keys": {"writer": {"existingSecretKey": "mine.json"}}},
        "set keys.writer.existingSecret as well.",
    ),
    "a probe's key without a Secret": (
        {"probe": {"existingSecretTokenKey": "mine"}},
        "probe.existingSecretTokenKey is set without a Secret: set probe.existingSecret as well.",
    ),
    "a probe's empty key without a Secret": (
        {"probe": {"existingSecretPasswordKey": ""}},
        "set probe.existingSecret as well.",
    ),
    "a hot window of the API only": (
        {"redis": {"hotWindow": {"api": {"existingSecret": "h"}}}},
        "must use the same hot window: set redis.hotWindow.writer.existingSecret as well.",
    ),
    "a hot window of the writers only": (
        {"redis": {"hotWindow": {"writer": {"existingSecret": "h"}}}},
        "must use the same hot window: set redis.hotWindow.api.existingSecret as well.",
    ),
    "a component's key without a Secret": (
        {
            "postgres": {
                "existingSecret": "",
                "url": "postgresql://p/d",
                "api": {"existingSecretKey": "api"},
            }
        },
        "set postgres.api.existingSecret or postgres.existingSecret as well.",
    ),
    "an empty key of a component's Secret": (
        {
            "redis": {
                "hotWindow": {
                    "existingSecretKey": "",
                    "api": {"existingSecret": "h", "existingSecretKey": "url"},
                    "writer": {"existingSecret": "h"},
                }
            }
        },
        "redis.hotWindow.writer.existingSecret names a Secret, but its key is empty: set",
    ),
    "a migration that waits until its deadline": (
        {"migrations": {"waitSeconds": 600}},
        "migrations.waitSeconds is 600, but after 600 seconds (migrations.deadlineSeconds)",
    ),
    "a rotation that waits until its deadline": (
        {
            "redis": {"rotation": {"existingSecret": "r"}},
            "keys": {"rotation": {"enabled": True, "deadlineSeconds": 500}},
        },
        "keys.rotation.waitSeconds is 600, but after 500 seconds (keys.rotation.deadlineSeconds)",
    ),
    "a canary slower than its alert": (
        {
            "canary": {"enabled": True, "everySeconds": 601},
            "metrics": {"rules": {"enabled": True}},
        },
        "set canary.everySeconds to 600 or less, or metrics.rules.alerts.IotCanarySilent.enabled",
    ),
    "a Postgres for one component only": (
        {"postgres": {"existingSecret": "", "api": {"existingSecret": "pg-api"}}},
        "No Postgres: set postgres.existingSecret to a Secret that holds its URL",
    ),
    "demo stores on OpenShift": (
        {"openshift": True, "redis": {"existingSecret": "", "internal": {"enabled": True}}},
        "set redis.existingSecret and postgres.existingSecret instead of internal.enabled.",
    ),
    "client certificates without https": (
        {"api": {"tls": {"clients": {"ca": {"existingSecret": "ca"}}}}},
        "api.tls.clients.ca is set, but the API serves http: set api.tls.existingSecret as well.",
    ),
    "client certificates without tokens": (
        {
            "auth": {"enabled": False},
            "api": {"tls": {"existingSecret": "tls", "clients": {"ca": {"existingSecret": "ca"}}}},
        },
        "auth.enabled is false, and a client certificate stands for a token: set auth.enabled",
    ),
    "revocation lists without an authority": (
        {"api": {"tls": {"existingSecret": "t", "clients": {"crl": {"existingSecret": "crl"}}}}},
        "api.tls.clients.crl.existingSecret is set, but the API asks for no client certificate",
    ),
    "required certificates without an authority": (
        {"api": {"tls": {"existingSecret": "t", "clients": {"required": True}}}},
        "api.tls.clients.required is set, but the API asks for no client certificate",
    ),
    "required certificates that the probe lacks": (
        {
            "api": {
                "tls": {
                    "existingSecret": "t",
                    "clients": {"ca": {"existingSecret": "ca"}, "required": True},
                }
            }
        },
        "have no certificate: set probe.clientCertificate.existingSecret.",
    ),
    "a probe's certificate that nobody asks for": (
        {"probe": {"clientCertificate": {"existingSecret": "p"}}},
        "probe.clientCertificate is set, but the API asks for no client certificate",
    ),
    "a certificate without its key": (
        {"api": {"tls": {"existingSecret": "t", "existingSecretPrivateKey": ""}}},
        "api.tls.existingSecretPrivateKey is empty: set it to a key of the Secret, such as tls.key",
    ),
    "a variable of TLS in extraEnv": (
        {
            "api": {
                "tls": {"existingSecret": "t"},
                "extraEnv": [{"name": "IOT_TLS_CERTIFICATE", "value": "/x"}],
            }
        },
        "and set api.tls.existingSecret",
    ),
    "an invalid name of a Service": (
        {"nameOverride": "", "fullnameOverride": "1iot"},
        "fullnameOverride",
    ),
    "a selector's label": (
        {"commonLabels": {"app.kubernetes.io/instance": "other"}},
        "app.kubernetes.io/instance",
    ),
    "a selector's label of pods": (
        {"api": {"podLabels": {"app.kubernetes.io/component": "other"}}},
        "app.kubernetes.io/component",
    ),
    "HPA and KEDA": (
        {"writer": {"hpa": {"enabled": True}, "keda": {"enabled": True}}},
        "The writer has two scalers: set only one of writer.hpa.enabled, writer.keda.enabled.",
    ),
    "more writers than shards": (
        {"writer": {"replicas": 9}},
        "set writer.replicas to 8 or less",
    ),
    "HPA beyond the shards": (
        {"shards": 4, "writer": {"hpa": {"enabled": True, "maxReplicas": 5}}},
        "set writer.hpa.maxReplicas to 4 or less",
    ),
    "KEDA beyond the shards": (
        {"shards": 4, "writer": {"keda": {"enabled": True, "maxReplicas": 5}}},
        "set writer.keda.maxReplicas to 4 or less",
    ),
    "HPA with minReplicas above maxReplicas": (
        {"api": {"hpa": {"enabled": True, "minReplicas": 5, "maxReplicas": 4}}},
        "api.hpa.minReplicas is 5 and exceeds api.hpa.maxReplicas, which is 4: lower minReplicas",
    ),
    "KEDA with minReplicas above maxReplicas": (
        {"writer": {"keda": {"enabled": True, "minReplicas": 5, "maxReplicas": 4}}},
        "writer.keda.minReplicas is 5 and exceeds writer.keda.maxReplicas, which is 4",
    ),
    "HPA without a metric": (
        {"api": {"hpa": {"enabled": True, "targetCPUUtilizationPercentage": None}}},
        "set api.hpa.targetCPUUtilizationPercentage or api.hpa.metrics.",
    ),
    "KEDA without a Prometheus": (
        {"writer": {"keda": {"enabled": True, "trigger": "prometheus"}}},
        "set writer.keda.prometheus.serverAddress, or writer.keda.trigger=metrics-api.",
    ),
    "an ingress without a host": (
        {"ingress": {"enabled": True}},
        "The ingress has no host: set ingress.hosts",
    ),
    "an HTTPRoute without a gateway": (
        {"httpRoute": {"enabled": True}},
        "The HTTPRoute has no gateway: set httpRoute.parentRefs",
    ),
    "own tokens without one for the probe": (
        {"auth": {"existingSecret": "t"}},
        "set probe.existingSecret to a Secret with a token",
    ),
    "no tokens": (
        {"auth": {"initialTokens": []}},
        "set auth.initialTokens or auth.existingSecret, or auth.enabled=false",
    ),
    "a short grace period": (
        {"api": {"terminationGracePeriodSeconds": 30}},
        "set api.terminationGracePeriodSeconds above 40",
    ),
    "a variable of a value": (
        {"api": {"extraEnv": [{"name": "IOT_SHARDS", "value": "4"}]}},
        "api.extraEnv sets IOT_SHARDS, which the chart sets too: remove it there, and set shards.",
    ),
    "a variable that one value of the API sets": (
        {"api": {"extraEnv": [{"name": "IOT_KEEPALIVE_SECONDS", "value": "9"}]}},
        "and set api.keepaliveSeconds.",
    ),
    "a variable of tracing": (
        {
            "tracing": {"endpoint": "http://otel:4318"},
            "writer": {"extraEnv": [{"name": "OTEL_TRACES_SAMPLER_ARG", "value": "1"}]},
        },
        "and set tracing.ratio.",
    ),
    "another variable of tracing": (
        {
            "tracing": {
                "endpoint": "http://otel:4318",
                "variables": {"OTEL_RESOURCE_ATTRIBUTES": "a=b"},
            },
            "api": {"extraEnv": [{"name": "OTEL_RESOURCE_ATTRIBUTES", "value": "a=c"}]},
        },
        "and set tracing.variables.OTEL_RESOURCE_ATTRIBUTES.",
    ),
    "a variable that replaces a value of tracing": (
        {"tracing": {"variables": {"OTEL_TRACES_SAMPLER": "always_on"}}},
        "tracing.variables sets OTEL_TRACES_SAMPLER, which would replace tracing.sampler: remove",
    ),
    "a variable that replaces the endpoint": (
        {
            "tracing": {
                "endpoint": "http://c:1",
                "variables": {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:12/v1/traces"},
            }
        },
        "remove it there, and set tracing.endpoint.",
    ),
    "a variable of config in a Job": (
        {
            "config": {"IOT_REDIS_KEY_PREFIX": "a:"},
            "keys": {"rotation": {"enabled": True}},
            "jobs": {"extraEnv": [{"name": "IOT_REDIS_KEY_PREFIX", "value": "b:"}]},
        },
        "remove it there, and set config.IOT_REDIS_KEY_PREFIX.",
    ),
    "the format of a Job's logs": (
        {"jobs": {"extraEnv": [{"name": "IOT_LOG_FORMAT", "value": "text"}]}},
        "jobs.extraEnv sets IOT_LOG_FORMAT, which the chart sets too: remove it there, and set",
    ),
    "a variable of config": (
        {
            "config": {"IOT_LOG_LEVEL": "INFO"},
            "writer": {"extraEnv": [{"name": "IOT_LOG_LEVEL", "value": "DEBUG"}]},
        },
        "remove it there, and set config.IOT_LOG_LEVEL.",
    ),
    "a variable of a Secret": (
        {"writer": {"extraEnv": [{"name": "IOT_KEYRING_FILE", "value": "/mine"}]}},
        "and set keys.writer.existingSecret.",
    ),
    "a URL beside its file": (
        {"api": {"extraEnv": [{"name": "IOT_REDIS_URL", "value": "redis://r"}]}},
        "and set redis.url or redis.existingSecret.",
    ),
    "a URL's file beside a URL": (
        {
            "postgres": {"existingSecret": "", "url": "postgresql://p/d"},
            "jobs": {"extraEnv": [{"name": "IOT_POSTGRES_URL_FILE", "value": "/mine"}]},
        },
        "jobs.extraEnv sets IOT_POSTGRES_URL_FILE, which the chart sets too: remove it there",
    ),
    "a URL's file of the key rotation": (
        {
            "keys": {"rotation": {"enabled": True}},
            "jobs": {"extraEnv": [{"name": "IOT_REDIS_URL_FILE", "value": "/mine"}]},
        },
        "jobs.extraEnv sets IOT_REDIS_URL_FILE, which the chart sets too: remove it there",
    ),
    "a variable twice": (
        {"api": {"extraEnv": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}},
        "api.extraEnv sets A twice: remove one of them.",
    ),
    "a volume of the chart": (
        {"api": {"extraVolumes": [{"name": "tmp", "emptyDir": {}}]}},
        "api.extraVolumes has a volume tmp, and so has the chart: give your volume another name.",
    ),
    "a path of the chart": (
        {"writer": {"extraVolumeMounts": [{"name": "mine", "mountPath": "/etc/iot-sensor/"}]}},
        "writer.extraVolumeMounts mounts /etc/iot-sensor/, where the chart mounts a volume",
    ),
    "a path below one of the chart": (
        {"api": {"extraVolumeMounts": [{"name": "tmp", "mountPath": "/etc/iot-sensor/mine"}]}},
        "api.extraVolumeMounts mounts /etc/iot-sensor/mine, where the chart mounts a volume",
    ),
    "an unknown volume": (
        {"api": {"extraVolumeMounts": [{"name": "mine", "mountPath": "/mine"}]}},
        "mounts a volume mine, which does not exist: add the volume to api.extraVolumes.",
    ),
    "one service account twice": (
        {"api": {"serviceAccount": {"name": "a"}}, "writer": {"serviceAccount": {"name": "a"}}},
        "both create the ServiceAccount a: set writer.serviceAccount.create=false",
    ),
    "an annotation of the chart": (
        {"api": {"podAnnotations": {"checksum/config": "1"}}},
        "api.podAnnotations has checksum/config, which the chart sets too: remove it there.",
    ),
    "an annotation of the chart at the canary": (
        {
            "canary": {"enabled": True, "podAnnotations": {"prometheus.io/port": "1"}},
            "metrics": {"annotations": {"enabled": True}},
        },
        "canary.podAnnotations has prometheus.io/port, which the chart sets too: remove it there.",
    ),
    "a traffic policy without an external type": (
        {"api": {"service": {"externalTrafficPolicy": "Local"}}},
        "api.service.externalTrafficPolicy is set, but api.service.type is ClusterIP: set the type",
    ),
    "a class without a load balancer": (
        {"api": {"service": {"type": "NodePort", "loadBalancerClass": "mine"}}},
        "api.service.loadBalancerClass is set, but api.service.type is NodePort: set the type",
    ),
    "two IP families and one stack": (
        {"bindAddress": "::", "api": {"service": {"ipFamilies": ["IPv4", "IPv6"]}}},
        "set api.service.ipFamilyPolicy to PreferDualStack or RequireDualStack.",
    ),
    "IPv6 that no pod listens on": (
        {"api": {"service": {"ipFamilyPolicy": "PreferDualStack"}}},
        "The Service has IPv6, but the pods listen on 0.0.0.0 only: set bindAddress to `::`.",
    ),
    "a timeout without session affinity": (
        {"api": {"service": {"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 9}}}}},
        "set api.service.sessionAffinity to ClientIP as well.",
    ),
    "a label of every object": (
        {"commonLabels": {"app.kubernetes.io/version": "9"}},
        "app.kubernetes.io/version",
    ),
    "two monitors": (
        {"metrics": {"podMonitor": {"enabled": True}, "serviceMonitor": {"enabled": True}}},
        "set only one of metrics.podMonitor.enabled, metrics.serviceMonitor.enabled.",
    ),
}
SENTENCES |= {
    f"{block} without its key": (
        merged({name: {"existingSecret": "s", key: ""}}, also),
        f"{name}.existingSecret names a Secret, but {name}.{key} is empty: set it to a key",
    )
    for block, name, key, also in WITHOUT_KEYS
}
