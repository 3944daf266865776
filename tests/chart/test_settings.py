"""Variables, ports, paths and arguments in the chart match the code."""

import ast
import json
import tomllib
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
import yaml
from flask.testing import FlaskClient

from chart.containers import (
    DOCKERFILES,
    MOUNTED,
    command,
    environment,
    exposed,
    image_command,
    parsed,
)
from chart.made import secrets_made
from chart.matrix import MATRIX
from chart.references import files
from chart.release import Object, Pod, Release
from chart.rendering import CHART, ROOT, rendered
from chart.schemas import NEWEST
from iot_cipher.keyring import create_keyring_file
from iot_models import tracing
from iot_models.scopes import Scope, parse_anonymous_scopes
from iot_models.setting_values import variable
from iot_models.settings import Settings, load

FIELDS = {variable(each.name): each for each in fields(Settings)}
FILES = {f"{name}_FILE" for name, each in FIELDS.items() if each.metadata["secret"]}
OF_TLS = {name for name in FIELDS if name.startswith("IOT_TLS_")}
"""Set by `api.tls`."""
PORTS = {
    ("api", "http"): "IOT_BIND",
    ("api", "metrics"): "IOT_API_METRICS_PORT",
    ("writer", "metrics"): "IOT_WRITER_METRICS_PORT",
}


def ours(release: Release) -> list[tuple[Pod, Object]]:
    """Return the containers of the images of this project."""
    return [
        (pod, container)
        for pod in release.pods
        if pod.component not in {"redis", "postgres"}
        for container in pod.containers
    ]


def test_every_variable_is_a_setting(release: Release) -> None:
    for pod, container in ours(release):
        names = {each["name"] for each in container.get("env") or ()}
        names |= set(environment(release, container))
        unknown = {name for name in names if name.startswith("IOT_")} - set(FIELDS) - FILES
        assert not unknown, str(pod)
        listed = [each["name"] for each in container.get("env") or ()]
        assert len(listed) == len(set(listed)), f"{pod}: a duplicate variable"


def test_services_accept_their_variables(release: Release, tmp_path: Path) -> None:
    """The settings load when the mounted files exist."""
    for pod, container in ours(release):
        if container["name"] not in {"api", "writer"}:
            continue
        given = environment(release, container)
        for name in FILES & set(given):
            given[name] = str(tmp_path / "url")
        (tmp_path / "url").write_text("postgresql://u:p@h/d", encoding="utf-8")
        settings = load(given)
        ring = settings.keyring_file
        assert ring.startswith(MOUNTED)
        assert bool(settings.tokens_file) is (pod.component == "api" and with_tokens(release))


def test_traces_are_on_where_the_values_name_a_collector(release: Release) -> None:
    for _, container in ours(release):
        given = environment(release, container)
        wanted = container["name"] in {"api", "writer"} and release.values.get("tracing")
        if wanted:
            assert tracing.is_requested(given)
            assert float(given["OTEL_TRACES_SAMPLER_ARG"]) == 0.5
        elif not release.values.get("tracing"):
            assert not tracing.is_requested(given)


@pytest.mark.parametrize(
    ("name", "log_format"), [("demo", "text"), ("key-rotation", "json"), ("canary", "json")]
)
def test_every_process_logs_in_the_format_of_the_values(name: str, log_format: str) -> None:
    """`helm test` does not log."""
    release = rendered(name, NEWEST)
    formats = {
        container["name"]: environment(release, container).get("IOT_LOG_FORMAT")
        for _, container in ours(release)
    }
    del formats["test"]
    assert set(formats.values()) == {log_format}, formats


def with_tokens(release: Release) -> bool:
    """Return whether the values enable tokens."""
    on: bool = release.values.get("auth", {}).get("enabled", True)
    return on


def test_files_in_variables_and_arguments_are_mounted(release: Release) -> None:
    for pod, container in ours(release):
        mounted = {path for path, _, _ in files(pod, container)}
        named = {
            text
            for text in (*environment(release, container).values(), *container.get("args", ()))
            if text.startswith(f"{MOUNTED}/")
        }
        assert named <= mounted, str(pod)
        # Every mounted file is used; authorities and client certificates are used by URLs.
        of_urls = ("/ca.crt", "/client.crt", "/client.key")
        assert all(path.endswith(of_urls) for path in mounted - named), str(pod)


def test_pods_get_only_the_secrets_they_need(release: Release) -> None:
    needed = {
        "api": {"keyring", "tokens", "tls", "redis", "hot-window", "postgres"},
        "writer": {"keyring", "redis", "hot-window", "postgres"},
        "migrate": {"postgres"},
        "secrets": set(),
        "rotation": {"redis", "hot-window", "postgres"},
        "test": {"probe"},
        "canary": {"probe"},
    }
    for pod, container in ours(release):
        given = {path.split("/")[3] for path, _, _ in files(pod, container) if MOUNTED in path}
        assert given <= needed[container["name"]], str(pod)


def test_api_and_writers_use_different_keys(release: Release) -> None:
    """Writers must not have access to the Secret with the pepper and the master keys."""
    secrets = {}
    for component, file in (("api", "keyring.json"), ("writer", "writer-keys.json")):
        pod, container = release.runs(component)
        (found,) = (
            (path, reference.name)
            for path, reference, _ in files(pod, container)
            if path.startswith(f"{MOUNTED}/keyring/")
        )
        assert found[0] == f"{MOUNTED}/keyring/{file}"
        secrets[component] = found[1]
    assert secrets["api"] != secrets["writer"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "users-in-one-secret",
            {
                "api": {
                    "redis": "my-redis:api",
                    "postgres": "my-pg:api",
                    "hot-window": "my-hot:api",
                },
                "writer": {
                    "redis": "my-redis:writer",
                    "postgres": "my-pg:writer",
                    "hot-window": "my-hot:writer",
                },
                "migrate": {"postgres": "my-pg:migration"},
            },
        ),
        (
            "users-in-secrets-of-their-own",
            {
                "api": {
                    "redis": "redis-api:url",
                    "postgres": "pg-api:url",
                    "hot-window": "hot-api:url",
                },
                "writer": {
                    "redis": "redis-writer:url",
                    "postgres": "pg-writer:url",
                    "hot-window": "hot-writer:url",
                },
                "migrate": {"postgres": "pg-migration:url"},
            },
        ),
        (
            "urls-but-for-the-writer",
            {
                "api": {"postgres": "iot-iot-sensor-postgres:url"},
                "writer": {"redis": "redis-writer:url", "postgres": "pg-writer:url"},
                "migrate": {"postgres": "iot-iot-sensor-postgres:url"},
            },
        ),
        (
            "key-rotation",
            {"rotation": {"redis": "my-redis:rotation", "postgres": "my-pg:migration"}},
        ),
    ],
)
def test_each_component_may_have_a_separate_url(
    name: str, expected: dict[str, dict[str, str]]
) -> None:
    release = rendered(name, NEWEST)
    for component, urls in expected.items():
        pod, container = release.runs(component)
        found = {
            path.split("/")[3]: f"{reference.name}:{key}"
            for path, reference, key in files(pod, container)
            if path.startswith(MOUNTED) and path.endswith("/url")
        }
        assert found == urls, component


@pytest.mark.parametrize("name", ["own-stores", "hot-window", "own-keys-of-secrets"])
def test_required_settings_are_set(name: str) -> None:
    """Required settings are set, and the hot window only where the values have one."""
    release = rendered(name, NEWEST)
    for component in ("api", "writer"):
        _, container = release.runs(component)
        given = set(environment(release, container))
        required = {name for name, each in FIELDS.items() if each.default is MISSING}
        assert all(name in given or f"{name}_FILE" in given for name in required)
        assert ("IOT_HOT_WINDOW_REDIS_URL_FILE" in given) is (name == "hot-window")


def test_every_setting_can_be_set() -> None:
    """`config` or another value sets each setting, never both, within the limits of the code."""
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    config = schema["properties"]["config"]["properties"]
    release = rendered("old-clients", NEWEST)
    (container,) = release.pod("api").containers
    own = {name.removesuffix("_FILE") for name in environment(release, container) if name in FILES}
    own |= set(environment(release, container)) & set(FIELDS) | {"IOT_HOT_WINDOW_REDIS_URL"}
    assert set(config) & own == set()
    assert set(config) | own == set(FIELDS) - OF_TLS
    (container,) = rendered("mutual-tls", NEWEST).pod("api").containers
    (strict,) = rendered("required-client-certificates", NEWEST).pod("api").containers
    assert {*environment(release, container), *environment(release, strict)} >= OF_TLS
    for name, limits in config.items():
        if FIELDS[name].type is int:
            metadata = FIELDS[name].metadata
            assert limits["minimum"] == metadata["minimum"], name
            assert limits["maximum"] == metadata["maximum"], name
    shards = schema["properties"]["shards"]
    metadata = FIELDS["IOT_SHARDS"].metadata
    assert (shards["minimum"], shards["maximum"]) == (metadata["minimum"], metadata["maximum"])


def test_scopes_match_the_code() -> None:
    schema = (CHART / "values.schema.json").read_text(encoding="utf-8")
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    for token in values["auth"]["initialTokens"]:
        assert set(token["scopes"]) <= set(Scope)
    for scope in Scope:
        assert f'"{scope}"' in schema
    release = rendered("old-clients", NEWEST)
    given = environment(release, release.pod("api").containers[0])["IOT_ANONYMOUS_SCOPES"]
    assert parse_anonymous_scopes(given) == {Scope.INGEST, Scope.READ}


def test_large_numbers_are_written_out() -> None:
    """helm reads numbers of YAML as floats and would print 1e+06."""
    release = rendered("many", NEWEST)
    (container,) = release.pod("api").containers
    given = environment(release, container)
    assert given["IOT_API_CONNECTIONS"] == "1000000"
    assert given["IOT_BACKLOG_MAX_BYTES"] == "8589934592"
    assert given["IOT_VAULT_CACHE_SIZE"] == "1000000"
    assert given["IOT_TRUSTED_PROXIES"] == "2"


def test_only_configured_proxies_are_trusted() -> None:
    for name, proxies in [("ingress", "1"), ("http-route", "1"), ("own-stores", "0")]:
        release = rendered(name, NEWEST)
        given = environment(release, release.pod("api").containers[0])
        assert given["IOT_TRUSTED_PROXIES"] == proxies, name


def test_container_ports_match_the_settings(release: Release) -> None:
    for pod, container in ours(release):
        given = environment(release, container)
        for port in container.get("ports") or ():
            if pod.component == "canary":
                listened = str(parsed(command(pod, container)).metrics_port)
            else:
                listened = given[PORTS[pod.component, port["name"]]].rpartition(":")[2]
            assert port["containerPort"] == int(listened), f"{pod}: {port}"


def test_images_expose_the_ports_of_their_pods() -> None:
    release = rendered("canary", NEWEST)
    listened: dict[str, set[int]] = {"api": set(), "writer": set()}
    for _, container in ours(release):
        image = "api" if "iot-sensor-api" in container["image"] else "writer"
        listened[image] |= {port["containerPort"] for port in container.get("ports") or ()}
    for image, dockerfile in DOCKERFILES.items():
        assert exposed(dockerfile) == listened[image], dockerfile


def test_probes_request_existing_paths(client: FlaskClient) -> None:
    """The paths of the API are its routes; test_running.py requests the others."""
    routes = {str(rule) for rule in client.application.url_map.iter_rules()}
    release = rendered("canary", NEWEST)
    for component in ("api", "writer", "canary"):
        (container,) = release.pod(component).containers
        paths = {
            kind: container[f"{kind}Probe"]["httpGet"]["path"]
            for kind in ("liveness", "readiness", "startup")
            if f"{kind}Probe" in container
        }
        assert paths["liveness"] == "/healthz"
        if component == "canary":
            continue
        assert paths["readiness"] == "/readyz"
        assert paths["startup"] == "/healthz", "startup must not wait for Postgres"
        if component == "api":
            assert set(paths.values()) <= routes


def test_routes_use_paths_of_the_api(client: FlaskClient) -> None:
    """The ingress forwards only paths of the API, not /metrics and not the probes."""
    routes = {str(rule) for rule in client.application.url_map.iter_rules()}
    release = rendered("ingress", NEWEST)
    (ingress,) = release.of("Ingress")
    paths = {
        path["path"]: path["pathType"]
        for rule in ingress["spec"]["rules"]
        for path in rule["http"]["paths"]
    }
    (route,) = rendered("http-route", NEWEST).of("HTTPRoute")
    of_route = {
        match["path"]["value"]: match["path"]["type"].removeprefix("Path")
        for rule in route["spec"]["rules"]
        for match in rule["matches"]
    }
    assert paths == of_route
    exact = {path for path, kind in paths.items() if kind == "Exact"}
    prefixes = tuple(path for path, kind in paths.items() if kind == "Prefix")
    for path in paths:
        assert path in routes or any(each.startswith(f"{path}/") for each in routes)
    outside = {path for path in routes if not path.startswith(prefixes)} - exact
    assert outside == {"/healthz", "/readyz"}


def test_the_chart_switches_the_page_off() -> None:
    for name, page in (("ingress", True), ("no-page", False)):
        release = rendered(name, NEWEST)
        (ingress,) = release.of("Ingress")
        paths = [path["path"] for path in ingress["spec"]["rules"][0]["http"]["paths"]]
        assert ("/" in paths, "/assets" in paths) == (page, page)
        settings = [each["data"].get("IOT_PAGE") for each in release.of("ConfigMap")]
        assert str(int(page)) in settings


def test_the_migration_grants_rights_only_if_configured() -> None:
    for name, grant in (("production", True), ("own-stores", False)):
        release = rendered(name, NEWEST)
        pod, container = release.runs("migrate")
        assert parsed(command(pod, container)).grant is grant


def test_arguments_are_valid_for_the_command(release: Release) -> None:
    for pod, container in ours(release):
        words = command(pod, container)
        if words[0] == "iot-sensor":
            assert parsed(words).command


def test_containers_without_a_command_run_the_services() -> None:
    assert image_command(DOCKERFILES["api"])[0] == "gunicorn"
    assert image_command(DOCKERFILES["writer"]) == ["python", "-m", "iot_writer"]


def test_the_probe_uses_the_url_of_the_service(release: Release) -> None:
    service = release.named("Service")
    for pod, container in ours(release):
        if pod.component not in {"test", "canary"}:
            continue
        given = parsed(command(pod, container))
        host, _, port = given.url.partition("://")[2].rpartition(":")
        name, namespace, _ = host.split(".", 2)
        assert namespace == release.namespace
        assert int(port) in [each["port"] for each in service[name]["spec"]["ports"]]
        assert service[name]["spec"]["selector"]["app.kubernetes.io/component"] == "api"
        assert bool(given.token_file) is with_tokens(release), str(pod)


def test_pods_have_time_to_shut_down(release: Release) -> None:
    config = ast.parse((ROOT / "services/api/iot_api/gunicorn_conf.py").read_text("utf-8"))
    graceful = next(
        ast.literal_eval(each.value)
        for each in config.body
        if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == "graceful_timeout"
    )
    pod = release.pod("api")
    stop = pod.containers[0]["lifecycle"]["preStop"]
    slept = int(stop["sleep"]["seconds"] if "sleep" in stop else stop["exec"]["command"][-1])
    assert slept >= 5
    assert pod.spec["terminationGracePeriodSeconds"] > slept + graceful
    assert release.pod("writer").spec["terminationGracePeriodSeconds"] >= 30


def test_the_chart_version_matches_the_code() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert chart["appVersion"] == project["project"]["version"]


def test_image_names_follow_the_values(release: Release) -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    tag = f":{chart['appVersion']}"
    for pod, container in ours(release):
        image = container["image"]
        if release.name == "images":
            assert container["imagePullPolicy"] == "Always"
            assert [each["name"] for each in pod.spec["imagePullSecrets"]] == [
                "my-registry",
                "my-other-registry",
            ]
            assert image in {
                f"registry.example.org:5000/mirror/iot-sensor-api@sha256:{'0123456789abcdef' * 4}",
                "other.example.org/iot-sensor-writer:9.9.9",
            }
        elif not MATRIX[release.name].files:
            api = pod.component == "api"
            assert image == f"iot-sensor-{'api' if api else 'writer'}{tag}"


def test_keys_of_secrets_are_the_file_names(tmp_path: Path) -> None:
    """The file name of the keyring is its key in the Secret."""
    made = secrets_made(rendered("demo", NEWEST))
    ring = tmp_path / "keyring.json"
    create_keyring_file(ring)
    assert {ring.name} in made.values()
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    assert values["keys"]["writer"]["existingSecretKey"] in set().union(*made.values())
    assert values["keys"]["existingSecretKey"] == ring.name
