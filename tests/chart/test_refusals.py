"""Invalid values are refused at install, with a sentence that says what to set."""

from typing import Any

import pytest

from chart.contradictions import SENTENCES
from chart.matrix import OWN, ValuesSet, merged, secrets
from chart.rendering import RefusedError, linted, template
from chart.schemas import NEWEST

DEMO = {"redis": {"internal": {"enabled": True}}, "postgres": {"internal": {"enabled": True}}}


# Values that the schema refuses, the path of the error, and the message of helm.
MISTAKES: list[tuple[dict[str, Any], str, str]] = [
    ({"wrter": {"replicas": 1}}, "", "'wrter' not allowed"),
    ({"api": {"replicsa": 1}}, "/api", "'replicsa' not allowed"),
    ({"api": {"hpa": {"minReplica": 1}}}, "/api/hpa", "'minReplica' not allowed"),
    ({"api": {"hpa": {"behaviour": {}}}}, "/api/hpa", "'behaviour' not allowed"),
    (
        {"redis": {"internal": {"persistence": {"sise": "1Gi"}}}},
        "/redis/internal/persistence",
        "'sise' not allowed",
    ),
    (
        {"metrics": {"rules": {"alerts": {"IotSlow": {"treshold": 1}}}}},
        "/metrics/rules/alerts/IotSlow",
        "'treshold' not allowed",
    ),
    ({"metrics": {"rules": {"alerts": {"IotSlo": {}}}}}, "/metrics/rules/alerts", "'IotSlo' not"),
    ({"networkPolicy": {"redis": {"port": [1]}}}, "/networkPolicy/redis", "'port' not allowed"),
    ({"config": {"IOT_LOGLEVEL": "INFO"}}, "/config", "'IOT_LOGLEVEL' not allowed"),
    # The chart sets these variables from other values or files; a second source would conflict.
    ({"config": {"IOT_SHARDS": 4}}, "/config", "'IOT_SHARDS' not allowed"),
    ({"config": {"IOT_KEYRING_FILE": "/k"}}, "/config", "'IOT_KEYRING_FILE' not allowed"),
    ({"config": {"IOT_LOG_LEVEL": "LOUD"}}, "/config/IOT_LOG_LEVEL", "value must be one of"),
    ({"api": {"replicas": "many"}}, "/api/replicas", "got string, want integer"),
    ({"writer": {"replicas": 0}}, "/writer/replicas", "minimum"),
    ({"writer": {"hpa": {"minReplicas": 0}}}, "/writer/hpa/minReplicas", "minimum"),
    ({"writer": {"keda": {"minReplicas": 0}}}, "/writer/keda/minReplicas", "minimum"),
    ({"api": {"hpa": {"minReplicas": 0}}}, "/api/hpa/minReplicas", "minimum"),
    ({"writer": {"keda": {"trigger": "cron"}}}, "/writer/keda/trigger", "value must be one of"),
    ({"shards": 0}, "/shards", "minimum"),
    ({"shards": 257}, "/shards", "maximum"),
    ({"retention": {"days": -1}}, "/retention/days", "minimum"),
    (
        {"auth": {"initialTokens": [{"name": "x", "scopes": ["reed"]}]}},
        "/auth/initialTokens/0/scopes/0",
        "value must be one of",
    ),
    ({"auth": {"initialTokens": [{"name": "x"}]}}, "/auth/initialTokens/0", "'scopes'"),
    ({"auth": {"anonymousScopes": ["admin"]}}, "/auth/anonymousScopes/0", "value must be one of"),
    ({"api": {"image": {"digest": "sha256:1"}}}, "/api/image/digest", "does not match pattern"),
    ({"ingress": {"paths": ["api"]}}, "/ingress/paths/0", "does not match pattern"),
    ({"api": {"service": {"type": "Ingress"}}}, "/api/service/type", "value must be one of"),
    ({"api": {"corsOrigins": ["foo"]}}, "/api/corsOrigins/0", "does not match pattern"),
    ({"api": {"extraEnv": [{"value": "x"}]}}, "/api/extraEnv/0", "missing property 'name'"),
    ({"api": {"podLabels": {"a": "b c"}}}, "/api/podLabels/a", "does not match pattern"),
    ({"ingress": {"hosts": ["http://a"]}}, "/ingress/hosts/0", "does not match pattern"),
    (
        {"metrics": {"rules": {"alerts": {"IotSlow": {"for": "1m1m"}}}}},
        "/metrics/rules/alerts/IotSlow/for",
        "does not match pattern",
    ),
    ({"metrics": {"rules": {"alertLabels": {"a-b": "c"}}}}, "", "invalid propertyName 'a-b'"),
    ({"metrics": {"dashboards": {"label": ""}}}, "/metrics/dashboards/label", "minLength"),
    # Helm removes a default for which the values say null.
    ({"shards": None, "bindAddress": None}, "", "missing properties 'bindAddress', 'shards'"),
    ({"api": {"page": None}}, "/api", "missing property 'page'"),
    ({"retention": {"days": None}}, "/retention", "missing property 'days'"),
    ({"migrations": {"enabled": None}}, "/migrations", "missing property 'enabled'"),
    ({"redis": {"api": None, "writer": None}}, "/redis", "missing properties 'api', 'writer'"),
    ({"keys": {"rotation": {"schedule": None}}}, "/keys/rotation", "missing property 'schedule'"),
    (
        {"metrics": {"rules": {"alerts": {"IotSlow": {"for": None}}}}},
        "/metrics/rules/alerts/IotSlow",
        "missing property 'for'",
    ),
]


def refusal(*given: dict[str, Any]) -> str:
    """Return the error of helm for these values, without line breaks."""
    with pytest.raises(RefusedError) as caught:
        template(ValuesSet(merged(*given)), "--kube-version", NEWEST)
    return " ".join(str(caught.value).split())


def test_empty_values_are_refused_with_instructions() -> None:
    said = refusal({})
    assert "No Postgres: set postgres.existingSecret to a Secret that holds its URL" in said
    assert "postgres.internal.enabled=true" in said


@pytest.mark.parametrize("name", SENTENCES)
def test_contradicting_values_are_refused_with_a_sentence(name: str) -> None:
    values, sentence = SENTENCES[name]
    assert sentence in refusal(dict(OWN), values)


def test_the_secrets_of_the_components_may_share_a_key() -> None:
    values: dict[str, Any] = {
        "redis": {"existingSecretKey": "REDIS_URL", **secrets("redis", "api", "writer")},
        "postgres": {
            "existingSecretKey": "DATABASE_URL",
            **secrets("postgres", "api", "writer", "migration"),
        },
    }
    text = template(ValuesSet(values), "--kube-version", NEWEST)
    assert 'name: "postgres-migration"' in text
    assert {'key: "REDIS_URL"', 'key: "DATABASE_URL"'} <= {
        line.strip(" -") for line in text.split("\n")
    }


def test_jobs_may_have_their_own_value_of_a_setting() -> None:
    """Only the Job of the key rotation gets `config`."""
    values = {
        "config": {"IOT_LOG_LEVEL": "WARNING"},
        "jobs": {"extraEnv": [{"name": "IOT_LOG_LEVEL", "value": "DEBUG"}]},
    }
    assert "value: DEBUG" in template(ValuesSet(merged(OWN, values)), "--kube-version", NEWEST)


@pytest.mark.parametrize(("values", "where", "said"), MISTAKES, ids=str)
def test_a_schema_error_names_its_path(values: dict[str, Any], where: str, said: str) -> None:
    text = refusal(dict(OWN), values)
    assert f"- at '{where}': " in text
    assert said in text


def test_lint_finds_a_schema_error() -> None:
    """Errors of the schema only: lint continues after a `fail` in a template."""
    with pytest.raises(RefusedError, match="'replicsa' not allowed"):
        linted(ValuesSet(merged(DEMO, {"api": {"replicsa": 1}})))


def test_an_older_kubernetes_is_refused() -> None:
    with pytest.raises(RefusedError, match=r"kubeVersion: >=1\.30"):
        template(ValuesSet(DEMO), "--kube-version", "1.29")
