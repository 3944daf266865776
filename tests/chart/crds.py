"""Small schemas of the custom resources in the chart.

Written by hand from the schemas of the CRDs: prometheus-operator 0.82 (`monitoring.coreos.com/v1`),
KEDA 2.20 (`keda.sh/v1alpha1`), Gateway API 1.3 (`gateway.networking.k8s.io/v1`, standard channel).
The schemas list the fields that the chart may set and refuse all others. An API server removes an
unknown field silently, so a typing error would only show when an alert is missing.
"""

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string", "minLength": 1}
COUNT: Schema = {"type": "integer", "minimum": 0}
FLAG: Schema = {"type": "boolean"}
TEXTS: Schema = {"type": "array", "items": TEXT}
STRINGS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65_535}
_TIME = r"(\d+y)?(\d+w)?(\d+d)?(\d+h)?(\d+m)?(\d+s)?(\d+ms)?"
DURATION: Schema = {"type": "string", "pattern": rf"^(0|{_TIME})$", "minLength": 1}
HOSTNAME: Schema = {
    "type": "string",
    "pattern": r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
}


def closed(*required: str, **properties: Schema) -> Schema:
    """Return the schema of an object with these properties and no other."""
    return {
        "type": "object",
        "required": list(required),
        "properties": properties,
        "additionalProperties": False,
    }


def many(items: Schema, least: int = 1, most: int | None = None) -> Schema:
    """Return the schema of a list of `least` to `most` items."""
    return {"type": "array", "items": items, "minItems": least} | (
        {} if most is None else {"maxItems": most}
    )


def one_of(*values: str) -> Schema:
    """Return the schema of one of these texts."""
    return {"enum": list(values)}


SELECTOR = closed(
    matchLabels=STRINGS,
    matchExpressions=many(closed("key", "operator", key=TEXT, operator=TEXT, values=TEXTS)),
)
RELABELING = closed(
    sourceLabels=TEXTS,
    separator=TEXT,
    targetLabel=TEXT,
    regex=TEXT,
    modulus=COUNT,
    replacement={"type": "string"},
    action=TEXT,
)
_ENDPOINT = {
    "port": TEXT,
    "path": {"type": "string", "pattern": "^/"},
    "scheme": one_of("http", "https"),
    "interval": DURATION,
    "scrapeTimeout": DURATION,
    "honorLabels": FLAG,
    "honorTimestamps": FLAG,
    "relabelings": many(RELABELING),
    "metricRelabelings": many(RELABELING),
}
_MONITOR = {
    "jobLabel": TEXT,
    "podTargetLabels": TEXTS,
    "selector": SELECTOR,
    "namespaceSelector": closed(any=FLAG, matchNames=TEXTS),
    "sampleLimit": COUNT,
    "targetLimit": COUNT,
    "labelLimit": COUNT,
}
_RULE = closed(
    "expr",
    alert=TEXT,
    record=TEXT,
    expr={"type": ["string", "integer"]},
    **{"for": DURATION, "keep_firing_for": DURATION},
    labels=STRINGS,
    annotations=STRINGS,
) | {"oneOf": [{"required": ["alert"]}, {"required": ["record"]}]}

_SCALING = closed(
    stabilizationWindowSeconds={"type": "integer", "minimum": 0, "maximum": 3600},
    selectPolicy=one_of("Max", "Min", "Disabled"),
    tolerance={},
    policies=many(
        closed(
            "type",
            "value",
            "periodSeconds",
            type=one_of("Pods", "Percent"),
            value={"type": "integer", "minimum": 1},
            periodSeconds={"type": "integer", "minimum": 1, "maximum": 1800},
        )
    ),
)
_TRIGGER = closed(
    "type",
    "metadata",
    type=TEXT,
    name=TEXT,
    metadata=STRINGS,
    useCachedMetrics=FLAG,
    metricType=one_of("AverageValue", "Value", "Utilization"),
    authenticationRef=closed(
        "name", name=TEXT, kind=one_of("TriggerAuthentication", "ClusterTriggerAuthentication")
    ),
)
_SCALED_OBJECT = closed(
    "scaleTargetRef",
    "triggers",
    scaleTargetRef=closed("name", apiVersion=TEXT, kind=TEXT, name=TEXT),
    pollingInterval=COUNT,
    cooldownPeriod=COUNT,
    initialCooldownPeriod=COUNT,
    idleReplicaCount=COUNT,
    minReplicaCount=COUNT,
    maxReplicaCount=COUNT,
    fallback=closed(
        "failureThreshold",
        "replicas",
        failureThreshold=COUNT,
        replicas=COUNT,
        behavior=one_of(
            "static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"
        ),
    ),
    advanced=closed(
        restoreToOriginalReplicaCount=FLAG,
        horizontalPodAutoscalerConfig=closed(
            name=TEXT, behavior=closed(scaleUp=_SCALING, scaleDown=_SCALING)
        ),
        scalingModifiers=closed(formula=TEXT, target=TEXT, activationTarget=TEXT, metricType=TEXT),
    ),
    triggers=many(_TRIGGER),
)
_PARENT = closed(
    "name",
    group=TEXT,
    kind=TEXT,
    namespace=TEXT,
    name=TEXT,
    sectionName=TEXT,
    port=PORT,
)
_ROUTE_RULE = closed(
    name=TEXT,
    matches=many(
        closed(
            path=closed(
                type=one_of("Exact", "PathPrefix", "RegularExpression"),
                value={"type": "string", "pattern": "^/", "maxLength": 1024},
            ),
            method=TEXT,
        ),
        most=64,
    ),
    filters=many({"type": "object", "required": ["type"]}, most=16),
    backendRefs=many(
        closed("name", group=TEXT, kind=TEXT, namespace=TEXT, name=TEXT, port=PORT, weight=COUNT),
        most=16,
    ),
    timeouts=closed(request=DURATION, backendRequest=DURATION),
)

SPECS: dict[tuple[str, str], Schema] = {
    ("monitoring.coreos.com/v1", "ServiceMonitor"): closed(
        "endpoints",
        "selector",
        **_MONITOR,
        targetLabels=TEXTS,
        endpoints=many(closed(**_ENDPOINT, targetPort={"type": ["string", "integer"]})),
    ),
    ("monitoring.coreos.com/v1", "PodMonitor"): closed(
        "podMetricsEndpoints",
        "selector",
        **_MONITOR,
        podMetricsEndpoints=many(closed(**_ENDPOINT, portNumber=PORT, filterRunning=FLAG)),
    ),
    ("monitoring.coreos.com/v1", "PrometheusRule"): closed(
        "groups",
        groups=many(
            closed(
                "name",
                "rules",
                name=TEXT,
                interval=DURATION,
                labels=STRINGS,
                limit=COUNT,
                rules=many(_RULE),
            )
        ),
    ),
    ("keda.sh/v1alpha1", "ScaledObject"): _SCALED_OBJECT,
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): closed(
        "parentRefs",
        parentRefs=many(_PARENT, most=32),
        hostnames=many(HOSTNAME, most=16),
        rules=many(_ROUTE_RULE, most=16),
    ),
}
"""The schema of the `spec` of each kind, by apiVersion and kind."""
