"""A URL in a Secret with a port that the network policies close stops the install."""

from integration.cluster.conftest import Run
from integration.cluster.test_secrets_create import ALL
from support.kube_api import KubeApi


def test_a_url_with_a_closed_port_is_refused(kube: KubeApi, run: Run) -> None:
    """The hook names the port before the install; pods would only see timeouts."""
    kube.put("my-redis", {"url": "rediss://:hush@redis.example.org:16379/0"})
    kube.put("my-pg", {"url": "postgresql://u:hush@p:5432/d"})
    ports = ["--ports", "my-redis:url=6379,6380", "--ports", "my-pg:url=5432,6432"]
    said = run(*ALL, *ports)
    assert said.code == 1
    assert said.err == (
        "Secret my-redis in namespace plant: the URL in url has port 16379, which the network "
        "policies do not open: add the port to networkPolicy.redis.ports\n"
    )
    assert kube.writes() == []
    ports[1] += ",16379"
    assert run(*ALL, *ports).code == 0
