"""Podman for the tests of the images."""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.environment import environment_without_settings

RESTRICTED = (
    "--network=host",
    "--read-only",
    "--read-only-tmpfs=false",
    "--tmpfs=/tmp:rw,noexec,nosuid,nodev,mode=1777",
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
    "--user=65532:65532",
)
"""The security settings of the chart, as arguments of `podman run`."""


@dataclass(frozen=True)
class Image:
    """An image: its name, its files and the output of `podman image inspect`."""

    name: str
    root: Path
    description: dict[str, Any]

    @property
    def packages(self) -> Path:
        """Site-packages of the virtual environment."""
        (found,) = (self.root / "opt/venv/lib").glob("python3*/site-packages")
        return found


def run(*command: str, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run a command and return its output; a failure shows the whole output."""
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (
        f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    )
    return done.stdout


class Podman:
    """`podman` with a separate containers.conf, which buildah reads too."""

    def __init__(self, configuration: Path) -> None:
        lines = [
            "[containers]",
            # The defaults may exceed the limits of this machine.
            'default_ulimits = ["nofile=8192:8192", "nproc=8192:8192"]',
        ]
        # crun refuses mixed control groups of versions 1 and 2; runc accepts them.
        if Path("/sys/fs/cgroup/unified").exists() and shutil.which("runc"):
            lines += ["[engine]", 'runtime = "runc"']
        configuration.write_text("\n".join(lines) + "\n", encoding="utf-8")
        self.environment = environment_without_settings()
        self.environment["CONTAINERS_CONF"] = str(configuration)
        if "runc" in lines[-1]:
            self.environment["BUILDAH_RUNTIME"] = "runc"

    def __call__(self, *arguments: str) -> str:
        """Run `podman ARGUMENTS` and return its output."""
        return run("podman", *arguments, env=self.environment)

    def has(self, image: str) -> bool:
        """Return whether an image exists on this machine."""
        command = ["podman", "image", "exists", image]
        return subprocess.run(command, env=self.environment, check=False).returncode == 0

    def import_root(self, root: Path, name: str) -> None:
        """Make an image from a folder."""
        archive = root.with_suffix(".tar")
        try:
            run("tar", "--create", f"--file={archive}", f"--directory={root}", ".")
            self("import", "--quiet", str(archive), name)
        finally:
            archive.unlink(missing_ok=True)

    @contextlib.contextmanager
    def mounted(self, name: str) -> Iterator[Path]:
        """Mount an image and yield the path of its files."""
        root = self("image", "mount", name).strip()
        try:
            yield Path(root)
        finally:
            self("image", "unmount", name)

    def restricted(
        self, image: Image, command: Sequence[str] = (), *, options: Sequence[str] = ()
    ) -> str:
        """Run a command with the restrictions of the chart, and return its output."""
        return self("run", "--rm", *RESTRICTED, *options, image.name, *command)

    @contextlib.contextmanager
    def started(self, image: Image, options: Sequence[str]) -> Iterator[str]:
        """Run an image with the restrictions of the chart, and yield the container's id."""
        container = self("run", "--detach", *RESTRICTED, *options, image.name).strip()
        try:
            yield container
        finally:
            self("rm", "--force", "--time=0", container)

    def logs(self, container: str) -> str:
        """Return the output of a container, including stderr."""
        command = ["podman", "logs", container]
        return subprocess.run(
            command,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=True,
        ).stdout

    def stop(self, container: str) -> int:
        """Send SIGTERM and return the exit status, which is 137 if the container was killed."""
        self("stop", "--time=45", container)
        return int(self("wait", container))
