"""The writer keys are in a separate Secret, which is derived from the keyring."""

import copy

import pytest

from integration.cluster.conftest import Run
from integration.cluster.test_secrets_create import ALL, check_consistent
from iot_cipher.keyring import new_keyring_text, parse_keyring
from iot_cipher.writer_keys import writer_keys_text
from support.kube_api import Asked, KubeApi


def test_writer_keys_are_made_in_an_older_release(kube: KubeApi, run: Run) -> None:
    assert run(*ALL).code == 0
    del kube.objects["plant", "f-writer-keys"]
    before = copy.deepcopy(kube.objects)
    kube.requests.clear()
    said = run(*ALL)
    assert (said.code, said.err) == (0, "")
    assert kube.writes() == [("create", "f-writer-keys")]
    check_consistent(kube)
    assert {name: kube.objects[name] for name in before} == before


@pytest.mark.parametrize("content", ["{}", "", None])
def test_writer_keys_follow_the_keyring(content: str | None, kube: KubeApi, run: Run) -> None:
    assert run(*ALL).code == 0
    if content is None:
        kube.put("f-keys", {"keyring.json": new_keyring_text()})
    else:
        kube.put("f-writer-keys", {"writer-keys.json": content, "note": "mine"})
    kube.requests.clear()
    said = run(*ALL)
    assert (said.code, said.err) == (0, "")
    assert "Secret f-writer-keys: derived again, because the keyring has changed" in said.out
    assert kube.writes() == [("update", "f-writer-keys")]
    keys = dict(kube.content("f-writer-keys"))
    assert keys.pop("note", None) == (None if content is None else "mine")
    kube.put("f-writer-keys", keys)
    check_consistent(kube)
    kube.requests.clear()
    assert run(*ALL).code == 0
    assert kube.writes() == []


def test_writer_keys_are_derived_from_an_external_keyring(kube: KubeApi, run: Run) -> None:
    keyring = new_keyring_text()
    kube.put("mine", {"ring": keyring})
    derive = ("secrets", "create", "--writer-keys", "f-writer-keys", "--keyring-from", "mine:ring")
    assert run(*derive).code == 0
    assert kube.content("f-writer-keys") == {
        "writer-keys.json": writer_keys_text(parse_keyring(keyring))
    }
    assert kube.writes() == [("create", "f-writer-keys")]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "does not exist: create it, with the key ring"),
        ({"other": "x"}, "has no value for the key ring"),
        ({"ring": "{}"}, "the keyring is not JSON of the form"),
    ],
)
def test_an_invalid_external_keyring_is_named(
    content: dict[str, str] | None, sentence: str, kube: KubeApi, run: Run
) -> None:
    if content is not None:
        kube.put("mine", content)
    said = run("secrets", "create", "--writer-keys", "w", "--keyring-from", "mine:ring")
    assert said.code == 1
    assert said.err.startswith("Secret mine in namespace plant")
    assert sentence in said.err
    assert said.err.count("\n") == 1
    assert kube.writes() == []


def test_a_concurrent_change_of_writer_keys_is_repeated(kube: KubeApi, run: Run) -> None:
    """The keyring changes again, and another run writes the Secret during this run."""
    assert run(*ALL).code == 0
    kube.put("f-keys", {"keyring.json": new_keyring_text()})
    texts = [new_keyring_text()]

    def other(asked: Asked) -> None:
        if asked.verb == "update" and texts:
            text = texts.pop()
            kube.put("f-keys", {"keyring.json": text})
            kube.put("f-writer-keys", {"writer-keys.json": "{}"})

    kube.before = other
    assert run(*ALL).code == 0
    check_consistent(kube)


def test_a_missing_right_to_update_is_named(kube: KubeApi, run: Run) -> None:
    assert run(*ALL).code == 0
    kube.put("f-keys", {"keyring.json": new_keyring_text()})
    kube.denied = {"update"}
    said = run(*ALL)
    assert said.code == 1
    assert said.err.startswith(
        "not allowed to update Secret f-writer-keys in namespace plant: grant the verb 'update' on "
        "the resource 'secrets' in a Role, with this name among its resourceNames (secrets"
    )
    assert said.err.count("\n") == 1
