"""An earlier version from the history of this repository, which runs beside the current one."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from .archives import unpack

VERSION_0_1 = "11edcc82b87dacd4d99f583ccca6e997c74f1522"

ROOT = Path(__file__).parents[2]
MEMBERS = (
    "services/api", "services/writer", "shared/models", "shared/cipher", "shared/stores", "tools",
)  # fmt: skip
_PACKAGES = ("iot_api", "iot_writer", "iot_models", "iot_cipher", "iot_stores", "iot_tools")
_LOCATE = (
    "import importlib, sys; [print(importlib.import_module(p).__file__) for p in sys.argv[1:]]"
)


class MissingCommitError(Exception):
    """The repository does not hold the commit, for example because it is a shallow clone."""


class EarlierVersion:
    """The extracted sources of a commit. Its processes use the dependencies of this environment."""

    def __init__(self, commit: str, directory: Path) -> None:
        """Extract the packages of `commit` into `directory`.

        Raises:
            MissingCommitError: git can't read the commit; the message says why.
        """
        self._directory = directory
        archive = directory / "sources.tar"
        command = ["git", "-C", str(ROOT), "archive", "--output", str(archive), commit, *MEMBERS]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except FileNotFoundError:
            raise MissingCommitError("git is not installed") from None
        except subprocess.CalledProcessError as error:
            reason = error.stderr.decode(errors="replace").strip()
            raise MissingCommitError(f"commit {commit} is not available: {reason}") from None
        unpack(archive, directory)

    def environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Return an environment in which Python imports this version instead of the installed one.

        PYTHONPATH comes before site-packages, and so before the editable installs.
        """
        path = os.pathsep.join(str(self._directory / member) for member in MEMBERS)
        return {**environment, "PYTHONPATH": path}

    def run_tool(self, environment: Mapping[str, str], *arguments: str) -> None:
        """Run `iot-sensor` of this version.

        Raises:
            subprocess.CalledProcessError: the command failed.
        """
        self._run(environment, "-m", "iot_tools", *arguments)

    def imported_from(self, environment: Mapping[str, str]) -> list[Path]:
        """Return the files from which a process of this version imports its packages."""
        return [Path(line) for line in self._run(environment, "-c", _LOCATE, *_PACKAGES).split()]

    def _run(self, environment: Mapping[str, str], *arguments: str) -> str:
        return subprocess.run(
            [sys.executable, *arguments],
            check=True, env=self.environment(environment), stdout=subprocess.PIPE, text=True,
        ).stdout  # fmt: skip
