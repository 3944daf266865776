"""The service account in a pod, or else the kube config, selects the cluster."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.cluster.conftest import Run
from iot_tools.cluster import connection
from iot_tools.local.certificate import ensure_certificate
from support.kube_api import KubeApi

PYPROJECT = Path(__file__).parents[3] / "tools/pyproject.toml"
CREATE = ("secrets", "create", "--wait", "0", "--keyring", "f-keys")
IN_A_POD = """
set -e
mount -t tmpfs tmpfs {place}
cp -r {account}/. {place}
exec "$@"
"""


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubeApi]:
    """An API server over TLS, with the service account of a pod and without a kube config."""
    certificate, key = tmp_path / "ca.crt", tmp_path / "key.pem"
    ensure_certificate(certificate, key)
    api = KubeApi(tls=(certificate, key))
    account = tmp_path / "account"
    account.mkdir()
    (account / "ca.crt").write_bytes(certificate.read_bytes())
    (account / "token").write_text(api.token)
    (account / "namespace").write_text("other")
    monkeypatch.setattr(connection, "SERVICE_ACCOUNT", account)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api.port))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with api.running():
        yield api


def test_a_pod_uses_its_service_account(pod: KubeApi, run: Run) -> None:
    said = run(*CREATE)
    assert (said.code, said.err) == (0, "")
    assert "keyring.json" in pod.content("f-keys", "other")


def test_the_option_namespace_wins(pod: KubeApi, run: Run) -> None:
    assert run(*CREATE, "--namespace", "plant").code == 0
    assert list(pod.objects) == [("plant", "f-keys")]


def test_an_existing_kube_config_wins_in_a_pod(
    pod: KubeApi, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = KubeApi()
    missing = f"~no-such-user/config:{'long' * 99}:{tmp_path / 'none'}"
    named = f"{missing}:{other.kube_config(tmp_path / 'other.config')}"
    monkeypatch.setenv("KUBECONFIG", named)
    with other.running():
        assert run(*CREATE).code == 0
    assert list(other.objects) == [("plant", "f-keys")]
    assert pod.requests == []


def test_a_pod_uses_no_proxy(pod: KubeApi, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert run(*CREATE).code == 0
    assert pod.objects


def test_a_refused_token_is_named(pod: KubeApi, run: Run) -> None:
    (connection.SERVICE_ACCOUNT / "token").write_text("expired")
    said = run(*CREATE)
    assert said.code == 1
    assert said.err == (
        f"the API server {pod.url} doesn't accept the token of the service account "
        "(401 Unauthorized) (get of Secret f-keys; tried for 0 s)\n"
    )


def test_an_untrusted_certificate_is_refused(pod: KubeApi, run: Run, tmp_path: Path) -> None:
    ensure_certificate(tmp_path / "other.crt", tmp_path / "other.pem")
    (connection.SERVICE_ACCOUNT / "ca.crt").write_bytes((tmp_path / "other.crt").read_bytes())
    said = run(*CREATE)
    assert said.code == 1
    assert "can't be reached: SSLError" in said.err
    assert "CERTIFICATE_VERIFY_FAILED" in said.err
    assert said.err.count("\n") == 1
    assert pod.requests == []


def test_a_pod_without_a_token_is_an_error(pod: KubeApi, run: Run) -> None:
    (connection.SERVICE_ACCOUNT / "token").unlink()
    said = run(*CREATE)
    assert said.code == 2
    assert said.err == (
        "the pod has no service account token: set automountServiceAccountToken: true\n"
    )
    assert pod.requests == []


def test_an_empty_token_is_an_error(pod: KubeApi, run: Run) -> None:
    (connection.SERVICE_ACCOUNT / "token").write_text("")
    said = run(*CREATE)
    assert said.code == 2
    assert "Token file exists but empty." in said.err
    assert pod.requests == []


def test_the_service_account_path_of_kubernetes_is_used(pod: KubeApi, tmp_path: Path) -> None:
    """The command reads the path that Kubernetes mounts, here in a separate mount namespace."""
    place = Path("/var/run/secrets/kubernetes.io/serviceaccount")
    top = next(each for each in (place, *place.parents) if each.exists())
    shadow = tmp_path / "shadow"
    (shadow / place.relative_to(top)).mkdir(parents=True, exist_ok=True)
    for each in (tmp_path / "account").iterdir():
        (shadow / place.relative_to(top) / each.name).write_bytes(each.read_bytes())
    script = IN_A_POD.format(account=shadow, place=top)
    unshare = ["unshare", "--map-root-user", "--mount"]
    try:
        subprocess.run([*unshare, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no mount namespace can be made here: {error}")
    command = [*unshare, "sh", "-c", script, "sh", sys.executable, "-m", "iot_tools", *CREATE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(pod.objects) == [("other", "f-keys")]


def test_the_namespace_of_the_kube_config_is_used(kube: KubeApi, run: Run) -> None:
    assert run(*CREATE).code == 0
    assert list(kube.objects) == [("plant", "f-keys")]


def test_a_missing_namespace_is_an_error(
    kube: KubeApi, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kube.kube_config(tmp_path / "bare", namespace=None)))
    said = run(*CREATE)
    assert said.code == 2
    assert said.err.startswith("no namespace: pass --namespace")


def test_a_missing_cluster_is_an_error(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    said = run(*CREATE)
    assert said.code == 2
    assert said.err.startswith("no cluster is configured: ")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"scalar",
        b"[]",
        b"\xff\xfe\x00",
        b"clusters: 1\ncontexts: 1\nusers: 1\ncurrent-context: c\n",
        b"contexts: [{name: c, context: text}]\nclusters: []\nusers: []\ncurrent-context: c\n",
    ],
)
@pytest.mark.parametrize("in_pod", [False, True])
def test_a_damaged_kube_config_is_an_error(
    content: bytes, in_pod: bool, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_bytes(content)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    if in_pod:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    said = run(*CREATE)
    assert said.code == 2
    assert said.err.startswith("no cluster is configured: ")
    assert said.err.count("\n") == 1


def test_a_damaged_authority_or_an_unreadable_kube_config_is_an_error(
    kube: KubeApi, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kube.config"
    content = json.loads(path.read_text("utf-8"))
    cluster = content["clusters"][0]["cluster"]
    cluster |= {"server": "https://127.0.0.1:1", "certificate-authority-data": "x"}
    path.write_text(json.dumps(content), "utf-8")
    said = run(*CREATE)
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert said.err.startswith("no cluster is configured: the kube config is damaged (")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path))
    said = run(*CREATE)
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert said.err.startswith("no cluster is configured: ")
    assert kube.requests == []


@pytest.mark.parametrize(
    "command",
    [
        CREATE,
        ("keys", "create", "--secret", "s"),
        ("keys", "list", "--secret", "s"),
        ("tokens", "list", "--secret", "s"),
    ],
)
def test_a_missing_kubernetes_package_is_an_error(command: tuple[str, ...]) -> None:
    script = (
        "import sys; sys.modules['kubernetes'] = None; "
        "from iot_tools.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *command], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    (limit,) = re.findall(r'"kubernetes>=\d+,(<\d+)"', PYPROJECT.read_text("utf-8"))
    assert done.stderr == (
        f"commands for Secrets need the package kubernetes: pip install 'kubernetes{limit}'\n"
    )


def test_other_commands_do_not_load_the_kubernetes_package() -> None:
    script = (
        "import sys; from iot_tools.cli.main import main; main(['settings']); "
        "print('kubernetes' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "False"
