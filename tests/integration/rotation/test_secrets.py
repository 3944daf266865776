"""`iot-sensor keys --secret` changes a keyring in a Secret, and derives the writers' keys."""

import json
from pathlib import Path

import pytest

from integration.rotation.running import Running
from iot_cipher.keyring import create_keyring_file, parse_keyring
from iot_cipher.writer_keys import writer_keys_text
from iot_models.audit_event import describe
from support.draining import drain_all
from support.kube_api import Asked, KubeApi

PLACE = ("--secret", "f-keys", "--secret-key", "ring", "--namespace", "plant")
WRITERS = ("--writer-secret", "f-writers", "--writer-secret-key", "writer-keys.json")


@pytest.fixture
def mounted(running: Running, kube: KubeApi) -> Running:
    """Processes whose keyring file is the mounted Secret."""
    file = Path(running.settings.keyring_file)
    text = file.read_text()
    kube.put("f-keys", {"ring": text, "other": "kept"})
    kube.put("f-writers", {"writer-keys.json": writer_keys_text(parse_keyring(text))})

    def mount(asked: Asked) -> None:
        if (asked.verb, asked.name) == ("update", "f-keys"):
            file.write_text(kube.content("f-keys")["ring"])

    kube.after = mount
    return running


def test_a_keyring_in_a_secret_is_rotated(mounted: Running, kube: KubeApi) -> None:
    mounted.put()
    drain_all(mounted.writer)
    output = mounted.wait_for("rotate", *PLACE, *WRITERS, "--settle", "0", "--wait", "0")
    assert "Secret f-keys in namespace plant: master key 1 was retired" in output
    content = kube.content("f-keys")
    keyring = parse_keyring(content["ring"])
    assert keyring.key_ids == (2,)
    assert content["other"] == "kept"
    assert kube.content("f-writers")["writer-keys.json"] == writer_keys_text(keyring)
    mounted.put()
    drain_all(mounted.writer)
    assert len(mounted.read()) == 2


def test_steps_name_the_secret(mounted: Running, kube: KubeApi) -> None:
    status, output = mounted.keys("add", *PLACE, *WRITERS)
    assert status == 0
    assert output.startswith("Secret f-keys in namespace plant: master key 2 was added")
    keyring = parse_keyring(kube.content("f-keys")["ring"])
    assert kube.content("f-writers")["writer-keys.json"] == writer_keys_text(keyring)
    listed = mounted.keys("list", *PLACE)[1]
    assert [line.split("  ")[0] for line in listed.splitlines()] == ["master key 1", "master key 2"]
    mounted.wait_for("promote", "2", *PLACE, *WRITERS)
    assert parse_keyring(kube.content("f-keys")["ring"]).primary_id == 2
    mounted.wait_for("rewrap", *PLACE, "--wait", "0")
    mounted.wait_for("retire", "1", *PLACE, *WRITERS, "--settle", "0")
    assert "primary 2" in mounted.keys("status", *PLACE)[1]


def test_the_change_is_in_the_audit_log(mounted: Running) -> None:
    mounted.keys("add", *PLACE, *WRITERS)
    service = mounted.service
    lines = service.pool.run_idempotent(lambda connection: service.audit.latest(connection, 10))
    assert [describe(line) for _, _, line in lines] == ["master key 2 was added"]


def test_a_keyring_is_not_taken_for_the_writers_keys(mounted: Running, kube: KubeApi) -> None:
    before = kube.content("f-keys")
    wrong = ("--writer-secret", "f-keys", "--writer-secret-key", "ring")
    status, output = mounted.keys("add", *PLACE, *wrong)
    assert status == 2
    assert "f-keys in namespace plant is not overwritten" in output
    assert kube.content("f-keys") == before


def test_create_makes_a_secret_once(running: Running, kube: KubeApi) -> None:
    for _ in range(2):
        assert running.keys("create", "--secret", "f-keys")[0] == 0
    assert kube.writes() == [("create", "f-keys")]
    text = kube.content("f-keys")["keyring.json"]
    assert parse_keyring(text).key_ids == (1,)
    about = kube.objects["plant", "f-keys"]["metadata"]["annotations"]["kubernetes.io/description"]
    assert about.startswith("The keys of iot-sensor.")


def test_a_missing_keyring_is_named(running: Running, kube: KubeApi) -> None:
    for said in ("does not exist", "has no value for the key ring"):
        status, output = running.keys("add", *PLACE)
        assert status == 2
        assert f"Secret f-keys in namespace plant {said}: name another keyring" in output
        kube.put("f-keys", {"other": "no keyring"})


def test_create_makes_a_file_once(running: Running, tmp_path: Path) -> None:
    path = tmp_path / "new.json"
    assert running.keys("create", str(path)) == (0, f"{path}: created\n")
    assert path.stat().st_mode & 0o777 == 0o600
    text = path.read_text()
    assert running.keys("create", str(path)) == (0, f"{path}: exists, not changed\n")
    assert path.read_text() == text
    assert json.loads(text)["primary"] == 1
    assert not create_keyring_file(path)
