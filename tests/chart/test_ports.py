"""Network policies open the ports in the URLs of the stores, or the install is refused."""

import pytest

from chart.made import arguments
from chart.matrix import OWN, Values, ValuesSet, merged
from chart.release import Object, Release
from chart.rendering import objects, rendered, template
from chart.schemas import NEWEST

REDIS, POSTGRES = {6379, 6380, 26379}, {5432, 6432}


def egress(release: Release, policy: str) -> set[int]:
    """Return the ports that a policy opens to any destination, except the port of DNS."""
    (found,) = (
        each for name, each in release.named("NetworkPolicy").items() if name.endswith(policy)
    )
    rules = [each for each in found["spec"]["egress"] if "to" not in each]
    return {port["port"] for each in rules for port in each["ports"]} - {53}


def opened(*values: Values) -> dict[str, set[int]]:
    """Return the open ports that the hook compares with the URL in each Secret."""
    text = template(ValuesSet(merged(OWN, *values)), "--kube-version", NEWEST)
    release = Release("", "", {}, tuple(objects(text)))
    words = arguments(release.runs("secrets")[1])
    given = [words[number + 1] for number, word in enumerate(words) if word == "--ports"]
    pairs = [each.partition("=") for each in given]
    return {reference: set(map(int, ports.split(","))) for reference, _, ports in pairs}


@pytest.mark.parametrize("component", ["api", "writer"])
def test_ports_of_urls_in_values_are_open(component: str) -> None:
    release = rendered("other-ports", NEWEST)
    theirs = {26380, 26379, 16379, 6543, 6544}
    assert egress(release, f"-{component}") == REDIS | POSTGRES | theirs
    assert egress(release, "-migrate") == POSTGRES | {6543, 6544}


def test_a_url_without_a_port_opens_no_other_port() -> None:
    assert egress(rendered("urls", NEWEST), "-api") == REDIS | POSTGRES


def test_a_writer_reaches_its_external_store_beside_internal_stores() -> None:
    """The policy used to close the ports of an external Postgres for the writers."""
    release = rendered("urls-but-for-the-writer", NEWEST)
    assert egress(release, "-writer") >= POSTGRES
    assert not egress(release, "-api") & POSTGRES


def test_urls_in_secrets_are_compared_before_the_install() -> None:
    assert opened() == {"my-redis:url": REDIS, "my-pg:url": POSTGRES}
    assert opened({"networkPolicy": {"redis": {"ports": [16379]}}})["my-redis:url"] == {16379}
    of_all = opened(
        {
            "redis": {"hotWindow": {"existingSecret": "h"}, "writer": {"existingSecretKey": "w"}},
            "postgres": {"migration": {"existingSecret": "m"}},
        }
    )
    assert set(of_all) == {
        *("my-redis:url", "my-redis:w", "h:url"),
        *("my-pg:url", "m:url"),
    }


def test_urls_are_not_compared_where_all_ports_may_be_open() -> None:
    assert opened({"networkPolicy": {"enabled": False}}) == {}
    everything: Object = {"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}
    assert opened({"networkPolicy": {"extraEgress": [everything]}}) == {}
    udp: Object = {"port": 51820, "protocol": "UDP"}
    one: Object = {"ports": [{"port": 16379, "protocol": "TCP"}, udp]}
    more = opened({"networkPolicy": {"extraEgress": [one]}})
    assert more == {"my-redis:url": {*REDIS, 16379}, "my-pg:url": {*POSTGRES, 16379}}


def test_the_migration_may_use_every_port_that_is_compared() -> None:
    """The install used to accept a port that only extraEgress opens, and the migration failed."""
    rule: Object = {"ports": [{"port": 5433, "protocol": "TCP"}]}
    values = ValuesSet(merged(OWN, {"networkPolicy": {"extraEgress": [rule]}}))
    release = Release("", "", {}, tuple(objects(template(values, "--kube-version", NEWEST))))
    assert {5433, *POSTGRES} <= egress(release, "-migrate")


@pytest.mark.parametrize(
    "policy", ["api", "writer", "test", "canary", "secrets", "migrate", "rotation"]
)
def test_extra_egress_applies_to_every_pod_of_the_product(policy: str) -> None:
    """In a service mesh, each pod must reach the mesh's control plane."""
    rule: Object = {"ports": [{"port": 15012, "protocol": "TCP"}]}
    more: Object = {
        "networkPolicy": {"extraEgress": [rule]},
        "canary": {"enabled": True},
        "keys": {"rotation": {"enabled": True}},
    }
    values = ValuesSet(merged(OWN, more))
    release = Release("", "", {}, tuple(objects(template(values, "--kube-version", NEWEST))))
    assert 15012 in egress(release, f"-{policy}")


@pytest.mark.parametrize(
    ("endpoint", "port"),
    [
        ("http://collector.observability:14318", 14318),
        ("https://otlp.example.org/tenant", 443),
        ("http://otlp.example.org", 80),
        ("http://[2001:db8::4318]:9999/v1", 9999),
        ("http://collector:4318", 4318),
    ],
)
def test_the_port_of_the_collector_is_open(endpoint: str, port: int) -> None:
    """Otherwise the policies close every port but 4318, and all traces are dropped."""
    values = ValuesSet(merged(OWN, {"tracing": {"endpoint": endpoint}}))
    release = Release("", "", {}, tuple(objects(template(values, "--kube-version", NEWEST))))
    for component in ("api", "writer"):
        assert egress(release, f"-{component}") == REDIS | POSTGRES | {4318, port}
