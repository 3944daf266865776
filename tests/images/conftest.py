"""Both images, built from the Dockerfiles on a Debian base image: `make test-images`."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from images.containers import Image, Podman, run

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
BASE = "localhost/iot-sensor-test-base:bookworm"
MARK = "a password that only the build may see"
NEEDED = ("buildah", "podman", "debootstrap")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests of images with a reason unless they are enabled and possible."""
    reason = missing()
    for item in items:
        if item.path.is_relative_to(HERE):
            # The first test waits for the base image and the builds.
            item.add_marker(pytest.mark.timeout(1200))
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


def missing() -> str:
    """Return why the images can't be tested; empty if they can."""
    if not os.environ.get("IOT_TEST_IMAGES"):
        return "builds images, which takes minutes: make test-images"
    absent = [tool for tool in NEEDED if shutil.which(tool) is None]
    if absent:
        return f"not installed: {', '.join(absent)}"
    return "" if os.geteuid() == 0 else "debootstrap and mounts of images need root"


@pytest.fixture(scope="session")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Podman:
    """Podman, with a configuration for old control groups and low limits."""
    return Podman(tmp_path_factory.mktemp("podman") / "containers.conf")


@pytest.fixture(scope="session")
def base_image(podman: Podman, tmp_path_factory: pytest.TempPathFactory) -> str:
    """IOT_TEST_BASE_IMAGE, or else a minimal Debian 12 with Python, which is made once."""
    given = os.environ.get("IOT_TEST_BASE_IMAGE")
    if given:
        return given
    if podman.has(BASE):
        return BASE
    root = tmp_path_factory.mktemp("base") / "root"
    packages = "--include=python3,python3-venv,ca-certificates"
    try:
        run("debootstrap", "--variant=minbase", packages, "bookworm", str(root))
        podman.import_root(root, BASE)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return BASE


@pytest.fixture(scope="session")
def images(
    podman: Podman, base_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Image]]:
    """The images of `make images` by their service; the fixture removes them at the end."""
    tag = f"test-{os.getpid()}"
    pip_settings = tmp_path_factory.mktemp("pip") / "pip.conf"
    given = os.environ.get("PIP_CONFIG_FILE")
    own = Path(given).read_text(encoding="utf-8") if given else "[global]\n"
    pip_settings.write_text(f"{own}\n# {MARK}\n", encoding="utf-8")
    settings = {
        "ENGINE": "buildah",
        "REGISTRY": "localhost",
        "TAG": tag,
        "BASE_IMAGE": base_image,
        "IMAGE_ARGS": "--network host",
        "PIP_CONFIG_FILE": str(pip_settings),
    }
    run("make", "--no-print-directory", "images", cwd=ROOT, env={**podman.environment, **settings})
    names = {service: f"localhost/iot-sensor-{service}:{tag}" for service in ("api", "writer")}
    with contextlib.ExitStack() as mounted:
        yield {
            service: Image(
                name=name,
                root=mounted.enter_context(podman.mounted(name)),
                description=json.loads(podman("image", "inspect", name))[0],
            )
            for service, name in names.items()
        }
    for name in names.values():
        podman("image", "rm", "--force", name)


@pytest.fixture(scope="session")
def base_root(podman: Podman, base_image: str) -> Iterator[Path]:
    """The files of the base image."""
    with podman.mounted(base_image) as root:
        yield root


@pytest.fixture(params=["api", "writer"])
def image(request: pytest.FixtureRequest, images: dict[str, Image]) -> Image:
    """Each of the images."""
    return images[request.param]
