"""Archives that tests unpack."""

import subprocess
from pathlib import Path


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar archive, compressed or not. Create `folder` if it is missing.

    `tarfile` would need the argument `filter` in Python 3.12, which Python 3.11.2 lacks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = ["tar", "-x", "-f", str(archive), "-C", str(folder)]
    subprocess.run(command, check=True)
