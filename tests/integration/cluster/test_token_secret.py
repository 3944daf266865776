"""`iot-sensor tokens --secret` loses no concurrent change and keeps other keys of the Secret."""

import base64
import copy
import threading
from functools import partial

import pytest

from integration.cluster.conftest import Run
from iot_cipher.tokens import new_tokens_text, parse_tokens, with_token
from iot_tools.cli.file_on_disk import StoredText
from iot_tools.cluster.secret_text import tokens_in_secret
from support.kube_api import Asked, KubeApi

CREATE = ("tokens", "create", "--scope", "ingest", "--secret", "f-tokens", "--name")


def names(kube: KubeApi) -> list[str]:
    """Return the names of the stored tokens."""
    text = kube.content("f-tokens")["tokens.json"]
    return [grant.name for grant in parse_tokens(text).grants]


def test_tokens_are_created_listed_and_revoked(kube: KubeApi, run: Run) -> None:
    kube.put("f-tokens", {"tokens.json": new_tokens_text()})
    kube.objects["plant", "f-tokens"]["data"]["binary"] = base64.b64encode(b"\xff\x00").decode()
    kube.objects["plant", "f-tokens"]["metadata"]["labels"] = {"of": "somebody"}
    said = run(*CREATE, "devices")
    assert (said.code, said.err) == (0, "")
    assert "devices" in run("tokens", "list", "--secret", "f-tokens").out
    assert run("tokens", "revoke", "--secret", "f-tokens", "--name", "devices").code == 0
    assert kube.writes() == [("update", "f-tokens")] * 2
    left = kube.objects["plant", "f-tokens"]
    assert base64.b64decode(left["data"]["binary"]) == b"\xff\x00"
    assert left["metadata"]["labels"] == {"of": "somebody"}


def test_the_printed_token_is_stored(kube: KubeApi, run: Run) -> None:
    kube.put("f-tokens", {"tokens.json": new_tokens_text()})
    kube.failures = [503]
    said = run(*CREATE, "devices")
    token = said.out.splitlines()[0]
    grant = parse_tokens(kube.content("f-tokens")["tokens.json"]).find(token.encode())
    assert grant is not None
    assert grant.name == "devices"
    assert "answers 503" in said.err  # not on stdout, which scripts read the token from


def test_a_missing_secret_is_made_by_create(kube: KubeApi, run: Run) -> None:
    said = run("tokens", "list", "--secret", "f-tokens", "--namespace", "other")
    assert (said.code, said.err) == (
        1,
        "Secret f-tokens in namespace other does not exist; create a token first\n",
    )
    said = run(*CREATE, "devices")
    assert (said.code, said.err) == (0, "Secret f-tokens in namespace plant: created\n")
    assert names(kube) == ["devices"]
    labels = kube.objects["plant", "f-tokens"]["metadata"]["labels"]
    assert labels == {"app.kubernetes.io/managed-by": "iot-sensor"}


def test_a_secret_without_tokens_is_named(kube: KubeApi, run: Run) -> None:
    kube.put("f-tokens", {"url": "redis://r"})
    said = run("tokens", "list", "--secret", "f-tokens")
    assert said.code == 1
    assert "f-tokens in namespace plant has no value for the key tokens.json; create" in said.err
    said = run(*CREATE, "devices")
    assert said.err == "Secret f-tokens in namespace plant: added the key tokens.json\n"
    assert said.out.startswith("iot_")
    assert kube.content("f-tokens")["url"] == "redis://r"


def test_a_concurrent_change_is_kept(kube: KubeApi, run: Run) -> None:
    kube.put("f-tokens", {"tokens.json": new_tokens_text()})
    left = ["one", "two"]

    def other(asked: Asked) -> None:
        if asked.verb == "update" and left:
            name = left.pop()
            assert run(*CREATE, name).code == 0

    kube.before = other
    assert run(*CREATE, "mine").code == 0
    assert sorted(names(kube)) == ["mine", "one", "two"]


def added(name: str, text: str | None) -> str:
    """Return a tokens.json with one more token."""
    assert text is not None
    return with_token(text, name, ["read"])[0]


def test_many_concurrent_changes_are_kept(kube: KubeApi) -> None:
    kube.put("f-tokens", {"tokens.json": new_tokens_text()})
    kept: list[StoredText] = [tokens_in_secret("f-tokens", None) for _ in range(6)]

    def add(number: int) -> None:
        for step in range(3):
            kept[number].change(partial(added, f"token-{number}-{step}"))

    threads = [threading.Thread(target=add, args=(number,)) for number in range(len(kept))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(names(kube)) == sorted(f"token-{n}-{s}" for n in range(6) for s in range(3))


def test_a_lost_answer_is_retried(kube: KubeApi, run: Run) -> None:
    kube.put("f-tokens", {"tokens.json": new_tokens_text()})

    def lose(asked: Asked) -> None:
        if asked.verb == "update" and len(kube.writes()) == 1:
            raise ConnectionAbortedError

    kube.after = lose
    said = run(*CREATE, "devices")
    assert said.code == 0
    assert names(kube) == ["devices"]
    assert said.out.startswith("iot_")


@pytest.mark.parametrize(
    ("verb", "sentence"),
    [
        ("get", "not allowed to get Secret f-tokens in namespace plant: grant the verb 'get'"),
        ("update", "not allowed to update Secret f-tokens in namespace plant: grant the verb"),
    ],
)
def test_a_missing_right_is_named(verb: str, sentence: str, kube: KubeApi, run: Run) -> None:
    kube.put("f-tokens", {"tokens.json": new_tokens_text()})
    kube.denied = {(verb, "f-tokens")}
    said = run(*CREATE, "devices")
    assert said.code == 1
    assert said.err.startswith(sentence)
    assert names(kube) == []
    assert said.out == ""


def test_an_immutable_secret_is_not_changed(kube: KubeApi, run: Run) -> None:
    kube.put("f-tokens", {"tokens.json": new_tokens_text()})
    kube.objects["plant", "f-tokens"]["immutable"] = True
    before = copy.deepcopy(kube.objects)
    said = run(*CREATE, "devices")
    assert said.code == 1
    assert "update of Secret f-tokens in namespace plant was refused: 422" in said.err
    assert kube.objects == before
