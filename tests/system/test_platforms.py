"""`make run` installs from wheels, without a compiler, on each platform that the README names."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINUX = ("x86_64-manylinux_2_28", "aarch64-manylinux_2_28")
MACOS = "aarch64-apple-darwin"
SUPPORTED = [
    *((python, platform) for python in ("3.11", "3.12", "3.13", "3.14") for platform in LINUX),
    *((python, MACOS) for python in ("3.12", "3.13", "3.14")),
]


def resolve(python: str, platform: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Choose a wheel of each package that `make run` installs, without installing any."""
    command = [str(Path(sys.executable).with_name("uv")), "pip", "install", "--dry-run"]
    command += ["--target", str(folder), "--only-binary", ":all:", "--require-hashes"]
    command += ["--python-version", python, "--python-platform", platform]
    command += ["-r", str(ROOT / "requirements" / "local.txt")]
    environment = dict(os.environ)
    if "PIP_INDEX_URL" in environment:  # as in the Makefile
        environment.setdefault("UV_DEFAULT_INDEX", environment["PIP_INDEX_URL"])
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if "Failed to fetch" in result.stderr or "error sending request" in result.stderr:
        pytest.skip("no package index can be reached")
    return result


@pytest.mark.parametrize(("python", "platform"), SUPPORTED)
def test_every_package_has_a_wheel(python: str, platform: str, tmp_path: Path) -> None:
    result = resolve(python, platform, tmp_path)
    assert result.returncode == 0, result.stderr


def test_a_package_without_a_wheel_is_noticed(tmp_path: Path) -> None:
    """The test above can fail: some package has no wheel for this pair."""
    result = resolve("3.11", MACOS, tmp_path)
    assert "has no usable wheels" in result.stderr
