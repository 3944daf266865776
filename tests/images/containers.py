"""Podman, as the tests of the images use it."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESTRICTED = (
    "--network=host",
    "--read-only",
    "--read-only-tmpfs=false",
    "--tmpfs=/tmp:rw,noexec,nosuid,nodev,mode=1777",
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
    "--user=65532:65532",
)
"""What the chart asks of every container, as arguments of `podman run`."""


@dataclass(frozen=True)
class Image:
    """An image: its name, its files, what `podman image inspect` says of it."""

    name: str
    root: Path
    description: dict[str, Any]

    @property
    def packages(self) -> Path:
        """The site-packages of its virtual environment."""
        (found,) = (self.root / "opt/venv/lib").glob("python3*/site-packages")
        return found


def run(*command: str, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run a command; what it printed, or an error that shows all of it."""
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (
        f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    )
    return done.stdout


class Podman:
    """`podman` with a containers.conf of its own, which buildah heeds too."""

    def __init__(self, configuration: Path) -> None:
        lines = [
            "[containers]",
            # Its defaults may be above what this machine lets us ask for.
            'default_ulimits = ["nofile=8192:8192", "nproc=8192:8192"]',
        ]
        # crun refuses control groups of both versions at once; runc takes them.
        if Path("/sys/fs/cgroup/unified").exists() and shutil.which("runc"):
            lines += ["[engine]", 'runtime = "runc"']
        configuration.write_text("\n".join(lines) + "\n", encoding="utf-8")
        kept = {key: value for key, value in os.environ.items() if not key.startswith("IOT_")}
        self.environment = {**kept, "CONTAINERS_CONF": str(configuration)}
        if "runc" in lines[-1]:
            self.environment["BUILDAH_RUNTIME"] = "runc"

    def __call__(self, *arguments: str) -> str:
        """What `podman ARGUMENTS` prints."""
        return run("podman", *arguments, env=self.environment)

    def has(self, image: str) -> bool:
        """Whether an image is on this machine."""
        command = ["podman", "image", "exists", image]
        return subprocess.run(command, env=self.environment, check=False).returncode == 0

    def import_root(self, root: Path, name: str) -> None:
        """Make an image of a folder."""
        archive = root.with_suffix(".tar")
        try:
            run("tar", "--create", f"--file={archive}", f"--directory={root}", ".")
            self("import", "--quiet", str(archive), name)
        finally:
            archive.unlink(missing_ok=True)

    @contextlib.contextmanager
    def mounted(self, name: str) -> Iterator[Path]:
        """The files of an image, to read."""
        root = self("image", "mount", name).strip()
        try:
            yield Path(root)
        finally:
            self("image", "unmount", name)

    def restricted(
        self, image: Image, command: Sequence[str] = (), *, options: Sequence[str] = ()
    ) -> str:
        """Run a command in a container as restricted as the chart's; what it printed."""
        return self("run", "--rm", *RESTRICTED, *options, image.name, *command)

    @contextlib.contextmanager
    def started(self, image: Image, options: Sequence[str]) -> Iterator[str]:
        """The id of a container that runs an image's own command, as restricted as the chart's."""
        container = self("run", "--detach", *RESTRICTED, *options, image.name).strip()
        try:
            yield container
        finally:
            self("rm", "--force", "--time=0", container)

    def logs(self, container: str) -> str:
        """What a container printed, errors too."""
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
        """Send SIGTERM; the exit status. 137 if it had to be killed."""
        self("stop", "--time=45", container)
        return int(self("wait", container))
