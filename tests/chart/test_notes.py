"""The notes that helm prints after an install are true for the values."""

import pytest

from chart.matrix import MATRIX, Values, own
from chart.rendering import notes


@pytest.mark.parametrize(
    ("values", "url"),
    [
        ({"ingress": {"enabled": True, "hosts": ["*.example.org"]}}, "http://NAME.example.org"),
        (
            {"httpRoute": {"enabled": True, "parentRefs": [{"name": "g"}], "hostnames": ["a.org"]}},
            "https://a.org",
        ),
        (
            {"httpRoute": {"enabled": True, "parentRefs": [{"name": "g"}]}},
            "http://127.0.0.1:5000",
        ),
    ],
)
def test_the_url_has_no_wildcard(values: Values, url: str) -> None:
    text = notes(own(values))
    assert f"URL={url}\n" in text
    assert ("Replace NAME" in text) is ("NAME" in url)


def test_each_token_of_the_commands_is_set() -> None:
    text = notes(own({"auth": {"initialTokens": [{"name": "a.b", "scopes": ["ingest"]}]}}))
    assert "INGEST=$(kubectl" in text
    create = "iot-sensor tokens create --namespace sensors --secret iot-iot-sensor-tokens"
    assert f"READ=$({create} --name my-read --scope read)" in text


def test_commands_send_a_required_client_certificate() -> None:
    text = notes(MATRIX["required-client-certificates"])
    assert text.count("curl --cert client.crt --key client.key ") == 2
    assert "--cert" not in notes(MATRIX["mutual-tls"])


@pytest.mark.parametrize(
    ("canary", "words"), [(True, "and the canary connect"), (False, "connects")]
)
def test_the_certificate_needs_the_name_of_the_service(canary: bool, words: str) -> None:
    text = notes(own({"api": {"tls": {"existingSecret": "t"}}, "canary": {"enabled": canary}}))
    assert f"`helm test` {words} to iot-iot-sensor-api.sensors.svc" in text
