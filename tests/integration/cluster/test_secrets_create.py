"""The hook makes all missing Secrets once, and never changes existing Secrets."""

import base64
import copy
import hashlib
import json
import multiprocessing
import re
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from integration.cluster.conftest import Run
from iot_cipher.keyring import new_keyring_text, parse_keyring
from iot_cipher.tokens import new_token, new_tokens_text, parse_tokens, with_token
from iot_cipher.writer_keys import writer_keys_text
from iot_tools.cli.main import main
from support.kube_api import Asked, KubeApi

TOKENS = ("--tokens", "f-tokens", "--token-values", "f-token-values",
          "--token", "devices=ingest", "--token", "people=read,audit")  # fmt: skip
ALL = ("secrets", "create", "--wait", "0", "--keyring", "f-keys", "--writer-keys", "f-writer-keys",
       *TOKENS, "--probe", "f-probe",
       "--redis", "f-redis", "--redis-host", "f-redis.plant.svc",
       "--postgres", "f-postgres", "--postgres-host", "f-postgres",
       "--label", "app.kubernetes.io/instance=f",
       "--label", "app.kubernetes.io/managed-by=Helm")  # fmt: skip
ORDER = [
    "f-keys",
    "f-writer-keys",
    "f-redis",
    "f-postgres",
    "f-token-values",
    "f-probe",
    "f-tokens",
]


def check_consistent(kube: KubeApi) -> None:
    """Check that all Secrets exist and that the hashes match the tokens."""
    check_writer_keys(kube)
    grants = parse_tokens(kube.content("f-tokens")["tokens.json"])
    values, probe = kube.content("f-token-values"), kube.content("f-probe")
    assert set(values) == {"devices", "people"}
    expected = {"devices": {"ingest"}, "people": {"read", "audit"}, "probe": {"ingest", "read"}}
    tokens = {**values, "probe": probe["token"]}
    found = {
        name: {str(scope) for scope in grant.scopes}
        for name, token in tokens.items()
        if (grant := grants.find(token.encode())) and grant.name == name
    }
    assert found == expected
    assert len(grants.grants) == 3
    assert len(probe["password"]) == 32
    redis, postgres = kube.content("f-redis"), kube.content("f-postgres")
    assert redis["url"] == f"redis://:{redis['password']}@f-redis.plant.svc:6379/0"
    assert postgres["url"] == (
        f"postgresql://iot_sensor:{postgres['password']}@f-postgres:5432/iot_sensor"
    )
    assert re.fullmatch("[A-Za-z0-9]{32}", redis["password"])
    assert urlsplit(postgres["url"]).password == postgres["password"]


def check_writer_keys(kube: KubeApi) -> None:
    """Check that the writers' keys are derived from the keyring and hold nothing else."""
    keyring = parse_keyring(kube.content("f-keys")["keyring.json"])
    assert kube.content("f-writer-keys") == {"writer-keys.json": writer_keys_text(keyring)}


def secrets_of(kube: KubeApi) -> set[str]:
    """Return every text that must never be printed."""
    found = set[str]()
    for namespace, name in kube.objects:
        for text in kube.content(name, namespace).values():
            found |= {text, base64.b64encode(text.encode()).decode()} - {""}
    return found | {kube.token}


def test_all_secrets_are_made_in_an_empty_namespace(kube: KubeApi, run: Run) -> None:
    said = run(*ALL)
    assert (said.code, said.err) == (0, "")
    check_consistent(kube)
    assert kube.writes() == [("create", name) for name in ORDER]
    assert [line.split("Secret ")[1] for line in said.out.splitlines()] == [
        f"{name}: created" for name in ORDER
    ]
    for each in kube.objects.values():
        assert each["type"] == "Opaque"
        labels, notes = each["metadata"]["labels"], each["metadata"]["annotations"]
        assert labels == {
            "app.kubernetes.io/instance": "f",
            "app.kubernetes.io/managed-by": "iot-sensor",
        }
        assert notes["argocd.argoproj.io/sync-options"] == "Prune=false,Delete=false"
        assert notes["kubernetes.io/description"]
    about = kube.objects["plant", "f-keys"]["metadata"]["annotations"]["kubernetes.io/description"]
    assert "every stored reading is lost for good" in about


def test_a_second_run_changes_nothing(kube: KubeApi, run: Run) -> None:
    run(*ALL)
    before = copy.deepcopy(kube.objects)
    kube.requests.clear()
    said = run(*ALL)
    assert (said.code, said.err) == (0, "")
    assert kube.writes() == []
    assert kube.objects == before
    lines = sorted(line.split("Secret ")[1] for line in said.out.splitlines())
    assert lines == sorted(f"{name}: exists, not changed" for name in ORDER)


def test_no_secret_is_ever_printed(kube: KubeApi, run: Run) -> None:
    kube.failures = [500, 503]
    said = [run(*(*ALL[:3], "5", *ALL[4:])), run(*ALL)]
    kube.denied = {"get"}
    said.append(run(*ALL))
    everything = "".join(each.out + each.err for each in said)
    assert "injected" in everything
    for secret in secrets_of(kube):
        assert secret not in everything


@pytest.mark.parametrize("name", [name for name in ORDER if name != "f-writer-keys"])
def test_an_existing_secret_is_not_changed(name: str, kube: KubeApi, run: Run) -> None:
    text, token = with_token(new_tokens_text(), "devices", ["admin"])
    contents = {
        "f-keys": {"keyring.json": new_keyring_text(), "note": "mine"},
        "f-redis": {"password": "x", "url": "redis://:x@elsewhere"},
        "f-postgres": {"password": "x", "url": "postgresql://x"},
        "f-token-values": {"devices": new_token(), "people": new_token()},
        "f-probe": {"token": new_token(), "password": "mine"},
        "f-tokens": {"tokens.json": text},
    }
    kube.put(name, contents[name])
    if name == "f-tokens":
        kube.put("f-keys", contents["f-keys"])
    before = copy.deepcopy(kube.objects["plant", name])
    said = run(*ALL)
    assert (said.code, said.err) == (0, "")
    assert kube.objects["plant", name] == before
    assert name not in {written for _, written in kube.writes()}
    assert f"Secret {name}: exists, not changed" in said.out
    assert token not in said.out
    if name == "f-tokens":
        assert ("plant", "f-probe") not in kube.objects
        for other in ("f-token-values", "f-probe"):
            reason = "the API would refuse its new tokens, because Secret f-tokens exists"
            assert f"Secret {other}: not created: {reason}" in said.out
        assert "`iot-sensor tokens create`" in said.out
    else:
        stands = {key: value for key, value in contents[name].items() if key != "note"}
        if name in {"f-token-values", "f-probe"}:
            grants = parse_tokens(kube.content("f-tokens")["tokens.json"])
            for value in (stands.get("token"), stands.get("devices")):
                assert value is None or grants.find(value.encode()) is not None


def test_lost_keys_are_not_made_again(kube: KubeApi, run: Run) -> None:
    """New keys would open none of the stored readings."""
    assert run(*ALL).code == 0
    del kube.objects["plant", "f-keys"]
    before = copy.deepcopy(kube.objects)
    said = run(*ALL)
    assert said.code == 1
    assert said.err.startswith("Secret f-keys in namespace plant was lost: the Secret f-tokens")
    assert "Restore the keyring from its backup" in said.err
    assert said.err.count("\n") == 1
    assert kube.objects == before


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("f-keys", {"other": "x"}, "has no value for the key keyring.json"),
        ("f-keys", {"keyring.json": " "}, "has no value for the key keyring.json"),
        ("f-keys", {"keyring.json": "{}"}, "the keyring is not JSON of the form"),
        ("f-tokens", {"tokens.json": "[]"}, "the file of tokens is not JSON of the form"),
        ("f-token-values", {"devices": "iot_x"}, "has no value for the key people; delete"),
        ("f-token-values", {"devices": "x", "people": "x"}, "the token devices must be iot_"),
        ("f-probe", {"token": "", "password": "x"}, "has no value for the key token; delete"),
        ("f-redis", {"url": "x"}, "has no value for the key password"),
        ("f-postgres", {}, "has no value for the key password, url"),
    ],
)
def test_an_invalid_secret_is_named_and_no_secret_is_made(
    name: str, content: dict[str, str], sentence: str, kube: KubeApi, run: Run
) -> None:
    kube.put(name, content)
    said = run(*ALL)
    assert said.code == 1
    assert said.err.startswith(f"Secret {name} in namespace plant")
    assert sentence in said.err
    assert said.err.count("\n") == 1
    assert kube.writes() == []
    assert "delete" not in said.err or not name.startswith("f-keys")


def test_all_invalid_secrets_are_named_at_once(kube: KubeApi, run: Run) -> None:
    kube.put("f-keys", {})
    kube.put("given", {"empty": ""})
    required = ("--require", "absent:url", "--require", "given:url", "--require", "given:empty")
    said = run(*ALL, *required)
    assert said.code == 1
    assert said.err.splitlines() == [
        "Secret absent in namespace plant does not exist: create it, with the key url",
        "Secret given in namespace plant has no value for the key url",
        "Secret given in namespace plant has no value for the key empty",
        "Secret f-keys in namespace plant has no value for the key keyring.json",
    ]
    assert kube.writes() == []


def test_existing_required_secrets_are_accepted(kube: KubeApi, run: Run) -> None:
    kube.put("given", {"url": "redis://x"})
    assert run("secrets", "create", "--require", "given:url").code == 0
    assert kube.writes() == []


@pytest.mark.parametrize(
    ("denied", "hint"),
    [
        ("get", "with this name among its resourceNames"),
        ("create", "without resourceNames, which do not apply to create"),
    ],
)
def test_a_missing_right_is_named(denied: str, hint: str, kube: KubeApi, run: Run) -> None:
    kube.denied = {denied}
    said = run("secrets", "create", "--keyring", "f-keys")
    assert said.code == 1
    assert said.err.startswith(
        f"not allowed to {denied} Secret f-keys in namespace plant: grant the verb '{denied}' on "
        f"the resource 'secrets' in a Role, {hint} (secrets"
    )
    assert said.err.count("\n") == 1
    assert kube.objects == {}
    assert len(kube.requests) == (1 if denied == "get" else 2)


@pytest.mark.usefixtures("kube")
def test_a_missing_namespace_is_named(run: Run) -> None:
    said = run("secrets", "create", "--namespace", "nowhere", "--keyring", "f-keys")
    assert (said.code, said.err) == (1, "namespace nowhere does not exist\n")


@pytest.mark.parametrize("status", [401, 429, 500, 503])
def test_transient_errors_are_retried(status: int, kube: KubeApi, run: Run) -> None:
    kube.failures = [status, status]
    said = run("secrets", "create", "--wait", "10", "--keyring", "f-keys")
    assert said.code == 0
    assert said.out.count("trying again") == 2
    parse_keyring(kube.content("f-keys")["keyring.json"])


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (401, "doesn't accept the token of the service account (401 injected: Unauthorized)"),
        (500, "answers 500 injected: InternalError"),
    ],
)
def test_lasting_errors_are_reported(status: int, sentence: str, kube: KubeApi, run: Run) -> None:
    kube.failures = [status] * 100
    said = run("secrets", "create", "--wait", "1.2", "--keyring", "f-keys")
    assert said.code == 1
    assert said.err == (
        f"the API server {kube.url} {sentence} (get of Secret f-keys; tried for 1.2 s)\n"
    )
    assert len(kube.requests) == 2


@pytest.mark.usefixtures("kube")
def test_a_permanent_refusal_is_not_retried(run: Run) -> None:
    said = run("secrets", "create", "--keyring", "f-keys", "--label", "a=not/a/value")
    assert said.code == 1
    assert said.err == (
        "create of Secret f-keys in namespace plant was refused: 422 "
        'Secret "f-keys" is invalid: metadata: Invalid value\n'
    )


def test_a_lost_answer_is_retried(kube: KubeApi, run: Run) -> None:
    """The connection ends after the Secret was made; the next attempt finds the Secret."""

    def lose(asked: Asked) -> None:
        if asked.verb == "create" and len(kube.writes()) == 1:
            raise ConnectionAbortedError

    kube.after = lose
    said = run("secrets", "create", "--wait", "10", "--keyring", "f-keys")
    assert (said.code, said.err) == (0, "")
    assert kube.writes() == [("create", "f-keys")] * 2
    assert "exists, not changed" in said.out


def test_an_unreachable_api_server_is_named(
    kube: KubeApi, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kube.url = "http://127.0.0.1:1"
    monkeypatch.setenv("KUBECONFIG", str(kube.kube_config(tmp_path / "wrong")))
    said = run("secrets", "create", "--wait", "0", "--keyring", "f-keys")
    assert said.code == 1
    assert "the API server http://127.0.0.1:1 can't be reached: " in said.err
    assert "Connection refused" in said.err
    assert said.err.count("\n") == 1


def test_a_secret_made_meanwhile_is_kept(kube: KubeApi, run: Run) -> None:
    text = new_keyring_text()

    def other(asked: Asked) -> None:
        if asked.verb == "create":
            kube.put("f-keys", {"keyring.json": text})

    kube.before = other
    said = run("secrets", "create", "--keyring", "f-keys")
    assert said.code == 0
    assert "f-keys: exists, not changed" in said.out
    assert kube.content("f-keys") == {"keyring.json": text}


def test_concurrent_runs_make_consistent_secrets(kube: KubeApi) -> None:
    """Both runs find no Secrets before the first write."""
    gate = threading.Barrier(2)

    def meet(asked: Asked) -> None:
        if asked.verb == "create":
            gate.wait(20)

    kube.before = meet
    codes: list[int] = []
    threads = [threading.Thread(target=lambda: codes.append(main(ALL))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [0, 0]
    assert sorted(kube.writes()) == sorted(2 * [("create", name) for name in ORDER])
    check_consistent(kube)


# Python 3.12 and later warn about a fork beside the thread of `kube`. The fork needs no lock of it.
@pytest.mark.filterwarnings("ignore:.* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("count", range(1, len(ORDER) + 1))
def test_a_run_completes_the_secrets_of_a_killed_run(count: int, kube: KubeApi, run: Run) -> None:
    held, release = threading.Event(), threading.Event()

    def hold(_: Asked) -> None:
        if len(kube.writes()) == count and not release.is_set():
            held.set()
            release.wait(30)

    kube.after = hold
    # A fork has imported `kubernetes`, which takes more than a second of CPU time.
    process = multiprocessing.get_context("fork").Process(target=main, args=(ALL,))
    process.start()
    try:
        assert held.wait(30)
    finally:
        process.kill()
        process.join()
        release.set()
    before = copy.deepcopy(kube.objects)
    assert [name for _, name in before] == ORDER[:count]
    said = run(*ALL)
    assert (said.code, said.err) == (0, "")
    check_consistent(kube)
    assert {name: kube.objects[name] for name in before} == before


def test_without_tokens_the_probe_has_only_a_password(kube: KubeApi, run: Run) -> None:
    assert run("secrets", "create", "--probe", "f-probe").code == 0
    assert kube.content("f-probe")["token"] == ""
    assert len(kube.content("f-probe")["password"]) == 32


def test_without_initial_tokens_no_token_values_are_made(kube: KubeApi, run: Run) -> None:
    arguments = ("--tokens", "f-tokens", "--token-values", "f-token-values")
    assert run("secrets", "create", *arguments).code == 0
    assert kube.content("f-tokens") == {"tokens.json": new_tokens_text()}
    assert ("plant", "f-token-values") not in kube.objects


def test_the_secret_of_the_api_holds_only_hashes(kube: KubeApi, run: Run) -> None:
    run(*ALL)
    rows = json.loads(kube.content("f-tokens")["tokens.json"])["tokens"]
    token = kube.content("f-token-values")["devices"]
    assert rows[0]["sha256"] == hashlib.sha256(token.encode()).hexdigest()
    assert token not in json.dumps(rows)
