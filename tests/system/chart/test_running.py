"""The rendered pods run on real stores, with the Secrets that the hook creates."""

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from chart.made import secrets_made
from chart.matrix import MATRIX
from chart.podsecurity import violations
from chart.release import Release
from chart.rendering import notes, rendered
from chart.schemas import NEWEST, mistakes
from iot_models.declared_metrics import METRICS
from iot_sensor_client import Client
from iot_tools.local.postgres_server import PostgresServer
from iot_tools.local.redis_server import RedisServer
from support.code_blocks import code_blocks
from support.kube_api import KubeApi
from support.waiting import wait_until
from system.chart.running import Node, redis_of

SETS = ["canary", "open-canary", "demo"]
"""Values with tokens and external stores, without tokens and with a separate Redis for the hot
window, and with the release's own Redis."""
DATABASE = "of_the_chart"


@dataclass(frozen=True)
class Cluster:
    """A running release: its Kubernetes API server and its pods."""

    release: Release
    api: KubeApi
    node: Node
    kube_config: Path

    def content(self) -> dict[str, dict[str, str]]:
        """Return all Secrets of the namespace."""
        namespace = self.release.namespace
        return {
            name: self.api.content(name, namespace)
            for where, name in self.api.objects
            if where == namespace
        }

    def request(
        self, method: str, path: str, body: object = None, token: str = ""
    ) -> tuple[int, Any]:
        """Send one request to the API, and return status and JSON."""
        url = f"http://127.0.0.1:{self.node.port('api', 'http')}"
        with Client(url, token=token) as client:
            response = client.request(method, path, json=body, repeatable=False)
        return response.status, response.json()


@pytest.fixture(scope="module")
def database(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of an empty database, for a user with no rights except on this database."""
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {DATABASE} LOGIN PASSWORD 'hush'")
        parts = {"user": DATABASE, "password": "hush", "dbname": DATABASE}
        yield psycopg.conninfo.make_conninfo(postgres_server.url, **parts)
        connection.execute(f"DROP ROLE {DATABASE}")


@pytest.fixture(scope="module", params=SETS)
def cluster(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    redis_server: RedisServer,
    postgres_server: PostgresServer,
    database: str,
) -> Iterator[Cluster]:
    """A release whose hooks have run and whose pods are ready."""
    folder = tmp_path_factory.mktemp(request.param)
    release = rendered(request.param, NEWEST)
    with ExitStack() as stack:
        connection = stack.enter_context(psycopg.connect(postgres_server.url, autocommit=True))
        connection.execute(f"CREATE DATABASE {DATABASE} OWNER {DATABASE}")
        stack.callback(connection.execute, f"DROP DATABASE {DATABASE} WITH (FORCE)")
        with Redis.from_url(redis_server.url) as client:
            client.flushall()
        api = stack.enter_context(KubeApi().running())
        config = api.kube_config(folder / "kube.config", release.namespace)
        made = Cluster(release, api, Node(release, folder), config)
        stack.callback(made.node.close)
        install(made, stack, folder, redis_server.url, database)
        yield made


def install(made: Cluster, stack: ExitStack, folder: Path, redis: str, database: str) -> None:
    """Install the release, in the order of helm and Kubernetes."""
    release, api, node = made.release, made.api, made.node
    api.namespaces.add(release.namespace)
    urls = {"my-redis": redis, "my-pg": database, "my-hot": redis.removesuffix("0") + "1"}
    existing = {name: {"url": urls[name]} for name in MATRIX[release.name].existing}
    for name in existing:  # the stores of this machine listen on free ports
        api.put(
            name, {"url": "redis://r" if name != "my-pg" else "postgresql://p"}, release.namespace
        )
    run_the_hook(made)
    node.secrets = {**made.content(), **existing}
    if release.named("StatefulSet"):
        node.secrets = {**node.secrets, **own_stores(made, stack, folder, database)}
    ended = node.run("migrate")
    assert ended.code == 0, ended.said
    node.start("api")
    node.start("writer")
    for component in ("api", "writer"):
        node.wait_for_probe(component, "startup")
        node.wait_for_probe(component, "readiness")


def run_the_hook(made: Cluster) -> None:
    """Run the hook, with a kube config instead of a service account."""
    ended = made.node.run("secrets", {"KUBECONFIG": str(made.kube_config)})
    assert ended.code == 0, ended.said


def own_stores(
    made: Cluster, stack: ExitStack, folder: Path, database: str
) -> dict[str, dict[str, str]]:
    """Return the Secrets of the release's own stores, with URLs of stores of this machine."""
    release, content = made.release, made.content()
    stores = {
        name: (f"{release.pod(name).owner['metadata']['name']}", content_of(content, name))
        for name in ("redis", "postgres")
    }
    for name, (host, secret) in stores.items():
        url = urlsplit(secret["url"])
        assert (url.hostname, url.password) == (host, secret["password"])
        (service,) = release.named("Service")[host]["spec"]["ports"]
        assert url.port == service["port"], name
    image = {each["name"]: each.get("value") for each in env_of(release, "postgres")}
    url = urlsplit(stores["postgres"][1]["url"])
    assert (url.username, url.path[1:]) == (image["POSTGRES_USER"], image["POSTGRES_DB"])

    password = stores["redis"][1]["password"]
    words, variables, port = redis_of(release.pod("redis"), folder / "own-redis", password)
    process = stack.enter_context(subprocess.Popen(words, env=variables, stdout=subprocess.DEVNULL))
    stack.callback(process.terminate)
    local = f"redis://:{password}@127.0.0.1:{port}/0"
    with Redis.from_url(local) as client:
        wait_until(lambda: answers(client), what="the release's own Redis")
        kept = client.config_get("append*")
        assert (kept["appendonly"], kept["appendfsync"]) == ("yes", "everysec")
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert int(client.config_get("maxmemory")["maxmemory"]) == 512 * 2**20
    fullname = stores["redis"][0].removesuffix("-redis")
    return {
        f"{fullname}-redis": {"password": password, "url": local},
        f"{fullname}-postgres": {"password": "hush", "url": database},
    }


def env_of(release: Release, component: str) -> list[dict[str, Any]]:
    _, container = release.runs(component)
    return list(container["env"])


def content_of(content: dict[str, dict[str, str]], store: str) -> dict[str, str]:
    (found,) = (each for name, each in content.items() if name.endswith(f"-{store}"))
    return found


def answers(client: "Redis") -> bool:
    try:
        return bool(client.ping())
    except RedisConnectionError:
        return False


def test_the_hook_creates_the_secrets_of_the_chart(cluster: Cluster) -> None:
    made = secrets_made(cluster.release)
    content = cluster.content()
    assert {name: set(content[name]) for name in made} == made
    labels = {
        name: cluster.api.objects[cluster.release.namespace, name]["metadata"]["labels"]
        for name in made
    }
    for each in labels.values():
        assert each["app.kubernetes.io/instance"] == "iot"


@pytest.mark.parametrize("cluster", ["demo"], indirect=True)
def test_the_second_run_of_the_hook_changes_nothing(cluster: Cluster) -> None:
    before, asked = cluster.content(), len(cluster.api.writes())
    run_the_hook(cluster)
    assert cluster.content() == before
    assert len(cluster.api.writes()) == asked


def test_probes_are_answered(cluster: Cluster) -> None:
    for component in ("api", "writer"):
        for kind in ("startup", "liveness", "readiness"):
            # The API's liveness is answered by a process that starts after the workers.
            cluster.node.wait_for_probe(component, kind)


def test_the_helm_test_succeeds(cluster: Cluster) -> None:
    ended = cluster.node.run("test")
    assert ended.code == 0, ended.said
    assert "unchanged" in ended.said


@pytest.mark.parametrize("cluster", ["canary"], indirect=True)
def test_the_helm_test_fails_with_an_unknown_token(cluster: Cluster) -> None:
    (name,) = (name for name in cluster.content() if name.endswith("-probe"))
    kept = cluster.node.secrets
    cluster.node.secrets = {**kept, name: {**kept[name], "token": f"iot_{'x' * 43}"}}
    ended = cluster.node.run("test")
    cluster.node.secrets = kept
    assert ended.code == 1, ended.said
    assert "token" in ended.said


def tokens(cluster: Cluster) -> dict[str, str]:
    """Return the tokens of the first install by name, none if the API requires no tokens."""
    if not any(each["name"] == "IOT_TOKENS_FILE" for each in env_of(cluster.release, "api")):
        return {}
    return content_of(cluster.content(), "token-values")


def test_tokens_of_the_first_install_have_their_scopes(cluster: Cluster) -> None:
    row = {"interrogator_time": 1000, "relative_time": 0, "freeform": "x", "db_password": "p"}
    put, read = {"data": row}, {"data": {"db_password": "p"}}
    given = tokens(cluster)
    if not given:
        assert cluster.request("PUT", "/api/iot", put)[0] == 201
        assert cluster.request("POST", "/api/iot", read)[0] == 200
        return
    for token, puts, reads in [
        ("", 401, 401),
        (given["devices"], 201, 403),
        (given["researchers"], 403, 200),
        (given["admin"], 201, 200),
    ]:
        assert cluster.request("PUT", "/api/iot", put, token)[0] == puts
        assert cluster.request("POST", "/api/iot", read, token)[0] == reads


def test_the_commands_of_the_notes_work(cluster: Cluster) -> None:
    """The test runs the printed commands, and replaces only kubectl."""
    text = notes(MATRIX[cluster.release.name])
    given = {}
    secret = r"(\w+)=\$\(kubectl .*get secret (\S+) -o jsonpath='\{\.data\.([^}]+)\}'"
    for variable, name, key in re.findall(secret, text):
        given[variable] = cluster.content()[name][key]
    assert set(given) == ({"INGEST", "READ"} if tokens(cluster) else set())
    commands = re.findall(r"^ *(curl (?:.*\\\n)*.*)", text, re.MULTILINE)
    asked: list[tuple[str, str, Any, *tuple[str, ...]]] = []
    for line in commands:
        filled = line.replace("\\\n", " ").replace("$URL", "")
        for name, value in given.items():
            filled = filled.replace(f"${name}", value)
        words = shlex.split(filled)
        (path,) = (word for word in words if word.startswith("/"))
        method = words[words.index("-X") + 1] if "-X" in words else "POST"
        body = json.loads(words[words.index("-d") + 1])
        header = [word.partition("Bearer ")[2] for word in words if "Bearer" in word]
        asked.append((method, path, body, *header))
    send, read = asked
    assert cluster.request(*send)[0] == 201
    # A person types the second command after the writer has stored the reading.
    found = wait_until(lambda: cluster.request(*read)[1]["data"], what="the reading of the notes")
    assert json.loads(found[0]["freeform"]) == send[2]["data"]["freeform"]


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
def test_the_documented_job_verifies_the_audit_log(cluster: Cluster, tmp_path: Path) -> None:
    """The test runs the documented commands, and replaces only kubectl."""
    (documented,) = (each.text for each in code_blocks("console") if "sensor-audit" in each.text)
    release = cluster.release
    deployments = release.named("Deployment")
    names = [release.pod(component).owner["metadata"]["name"] for component in ("api", "writer")]
    found = {"kind": "List", "items": [deployments[name] for name in names]}
    (tmp_path / "get").write_text(json.dumps(found), encoding="utf-8")
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(
        "#!/bin/sh\ncase $3 in get) cat get ;; create) cat >create ;; esac\n", encoding="utf-8"
    )
    kubectl.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/local/bin:/usr/bin:/bin"}
    script = ["/bin/bash", "-euo", "pipefail", "-c", documented]
    subprocess.run(script, cwd=tmp_path, env=environment, check=True, timeout=20)
    job = json.loads((tmp_path / "create").read_text(encoding="utf-8"))
    assert mistakes(job, NEWEST) == []
    with_job = replace(release, objects=(*release.objects, job))
    pod, container = with_job.runs("audit")
    assert violations(pod.metadata, pod.spec) == []
    assert pod.component == "writer"
    assert container["image"] == release.runs("writer")[1]["image"]
    node = Node(with_job, tmp_path)
    node.secrets = cluster.node.secrets
    wait_until(lambda: node.run("audit").code == 0, what="a whole log")
    assert "the audit log is whole" in node.said("audit")


def test_metrics_are_served_on_the_monitored_ports(cluster: Cluster) -> None:
    for component in ("api", "writer"):
        status, text = cluster.node.get(component, "metrics", "/metrics")
        assert status == 200
        found = {family.name for family in text_string_to_metric_families(text)}
        named = {each.name.removesuffix("_total") for each in METRICS if each.service == component}
        assert found & named, component


def test_keda_finds_the_backlog_on_the_metrics_of_the_api(cluster: Cluster) -> None:
    (scaled,) = rendered("keda", NEWEST).of("ScaledObject")
    _, text = cluster.node.get("api", "metrics", "/metrics")
    for trigger in scaled["spec"]["triggers"]:
        name = trigger["metadata"]["valueLocation"]
        assert re.search(rf"^{name} [0-9.e+]+$", text, re.MULTILINE), name


@pytest.mark.parametrize("cluster", ["canary", "open-canary"], indirect=True)
def test_the_canary_sends_readings(cluster: Cluster) -> None:
    node = cluster.node
    node.start("canary")
    node.wait_for_probe("canary", "liveness")

    def sent() -> bool:
        text = node.get("canary", "metrics", "/metrics")[1]
        return re.search(r"^iot_canary_sent_total [1-9]", text, re.MULTILINE) is not None

    wait_until(sent, what="a reading of the canary")
    ended = node.stop("canary")
    assert ended.code == 0, ended.said


def test_the_hot_window_uses_its_own_redis_if_configured(
    cluster: Cluster, redis_server: RedisServer
) -> None:
    with Redis.from_url(redis_server.url.removesuffix("0") + "1") as apart:
        assert bool(apart.keys("*")) is (cluster.release.name == "open-canary")


def test_the_program_of_prestop_is_in_the_image() -> None:
    """The preStop hook of the API runs a program of Debian's coreutils."""
    stop = rendered("own-stores", NEWEST).pod("api").containers[0]["lifecycle"]["preStop"]
    if "exec" in stop:
        assert stop["exec"]["command"][0] == "sleep"


def test_pods_stop_in_time_and_leave_no_files(cluster: Cluster) -> None:
    """This is the last test of the file, as it stops the pods."""
    for component in ("api", "writer"):
        ended = cluster.node.stop(component)
        assert ended.code == 0, f"{component}: {ended.said}"
        assert ended.seconds < 30, component
        assert "Traceback" not in ended.said
    assert cluster.node.written_outside() == []
