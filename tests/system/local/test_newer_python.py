"""`make run` in a newer Debian, with its Python."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from iot_tools.local.ports import free_port

CHECKOUT = Path(__file__).parents[3]
RELEASE = "trixie"
"""Debian 13, with Python 3.13."""
PACKAGES = "python3,python3-venv,make,ca-certificates"
SECONDS = 280

pytestmark = [
    pytest.mark.skipif(
        not (shutil.which("debootstrap") and os.geteuid() == 0),
        reason="needs debootstrap, and root for a chroot",
    ),
    pytest.mark.timeout(2 * SECONDS),
]

RUN = """
set -e
cd /checkout
make --no-print-directory run PORT={port} DEVICES=1 DATA_DIR=/data > /output 2>&1 & made=$!
for _ in $(seq 600); do
    if grep -q 'Ctrl-C stops everything' /output || ! kill -0 $made 2> /dev/null; then break; fi
    sleep 0.2
done
# /proc shows all processes of the machine, and other tests run the service, too.
kill -INT $(pgrep -f '[i]ot_tools run .*--port {port} ' 2> /dev/null || echo $made) || true
wait $made || true
cat /output
.venv/bin/python --version
"""


def unpack_debian(root: Path) -> None:
    """Make `root` a Debian whose packages are unpacked. Configuring them takes 12 s of CPU time."""
    included = f"--include={PACKAGES},procps"
    command = ["debootstrap", "--download-only", "--variant=minbase", included]
    made = subprocess.run(
        [*command, RELEASE, str(root)], capture_output=True, text=True, check=False, timeout=SECONDS
    )
    if made.returncode:
        pytest.skip(f"debootstrap failed: {made.stderr[-200:] or made.stdout[-200:]}")
    for package in (root / "var/cache/apt/archives").glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", str(package), str(root)], check=True)  # noqa: S607
    for name in ("passwd", "group"):
        shutil.copy(root / f"usr/share/base-passwd/{name}.master", root / "etc" / name)


@pytest.fixture
def debian(tmp_path: Path) -> Iterator[Path]:
    """The root directory of a newer Debian with a copy of the checkout."""
    root = tmp_path / "root"
    unpack_debian(root)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607
        cwd=CHECKOUT, capture_output=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (CHECKOUT / name).is_file():
            (root / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(CHECKOUT / name, root / "checkout" / name)
    for name in (
        "etc/pip.conf",
        "etc/xdg/pip",
        "etc/resolv.conf",
        "etc/ssl/certs/ca-certificates.crt",
    ):
        source = Path("/") / name
        if source.is_dir():
            shutil.copytree(source, root / name, dirs_exist_ok=True)
        elif source.exists():
            shutil.copy(source, root / name)
    mounted = []
    try:
        for kind, name in (("proc", "proc"), ("devtmpfs", "dev")):
            subprocess.run(["mount", "-t", kind, kind, str(root / name)], check=True)  # noqa: S607
            mounted.append(name)
        yield root
    finally:
        for name in reversed(mounted):
            subprocess.run(["umount", "--lazy", str(root / name)], check=True)  # noqa: S607


def test_make_run_with_a_newer_python(debian: Path) -> None:
    kept = ("PIP_", "SSL_", "UV_")
    environment = {name: value for name, value in os.environ.items() if name.startswith(kept)}
    environment["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
    done = subprocess.run(
        ["chroot", str(debian), "sh", "-c", RUN.format(port=free_port())],  # noqa: S607
        env=environment, capture_output=True, text=True, check=False, timeout=SECONDS,
    )  # fmt: skip
    assert "first reading read back" in done.stdout, done.stdout + done.stderr
    assert "Valkey 9" in done.stdout
    assert "Python 3.13" in done.stdout
