# ruff: noqa: INP001 -- a script beside the files that it reads
"""Writes a CycloneDX bill of materials for each image, from its Dockerfile and its lock file.

`make sbom` runs this script. cyclonedx-py reads the lock file. The script leaves out packages for
other platforms and adds our own packages. The packages of the base image are not listed.
"""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.markers import Marker
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
IMAGES = ("api", "writer")
IMAGE_ENVIRONMENT = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_full_version": "3.11.15",
    "python_version": "3.11",
    "sys_platform": "linux",
}
"""Markers are evaluated for the default base image."""
_PIN = re.compile(r"^([a-z0-9][\w.\[\],-]*==[^ ;]+)( ; ([^\\\n]*))?", re.MULTILINE)
_MEMBER = re.compile(r"^COPY (\S+) \1$", re.MULTILINE)


def installed(text: str) -> str:
    """Return the part of a lock file that pip installs into the image."""
    found = list(_PIN.finditer(text))
    ends = [pin.start() for pin in found[1:]] + [len(text)]
    parts = []
    for pin, end in zip(found, ends, strict=True):
        marker = pin[3]
        if marker is None or Marker(marker).evaluate(dict(IMAGE_ENVIRONMENT)):
            lines = text[pin.start() : end].splitlines()
            parts += [line for line in lines if not line.lstrip().startswith("#")]
    return "\n".join(parts) + "\n"


def members(dockerfile: str) -> list[dict[str, Any]]:
    """Return our own packages in an image, as components."""
    made = []
    for folder in _MEMBER.findall(dockerfile):
        text = (ROOT / folder / "pyproject.toml").read_text(encoding="utf-8")
        project = tomllib.loads(text)["project"]
        made.append(
            {
                "bom-ref": project["name"],
                "type": "library",
                "name": project["name"],
                "version": project["version"],
                "description": project["description"],
                "purl": f"pkg:generic/{canonicalize_name(project['name'])}@{project['version']}",
            }
        )
    return made


def bill(image: str) -> str:
    """Return the validated bill of an image, as JSON.

    Raises:
        ValueError: the bill does not match the schema of CycloneDX.
    """
    text = draft(image)
    mistake = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if mistake is not None:
        raise ValueError(f"the bill of {image} is not valid CycloneDX: {mistake}")
    return text


def draft(image: str) -> str:
    """Return the bill of an image before its validation. The same sources make the same bill."""
    lock = (ROOT / f"requirements/{image}.txt").read_text(encoding="utf-8")
    dockerfile = (ROOT / f"services/{image}/Dockerfile").read_text(encoding="utf-8")
    project = ROOT / f"services/{image}/pyproject.toml"
    # Validation takes cyclonedx-py three seconds, and `bill` validates the complete bill.
    options = ["--no-validate", "--output-reproducible", "--spec-version", "1.6"]
    options += ["--pyproject", str(project)]
    done = subprocess.run(  # noqa: S603 -- our own arguments
        [sys.executable, "-W", "ignore", "-m", "cyclonedx_py", "requirements", *options, "-"],
        input=installed(lock),
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stderr.splitlines(keepends=True)
    sys.stderr.writelines(line for line in said if "Validation skipped" not in line)
    done.check_returncode()
    made = json.loads(done.stdout)
    for each in made["components"]:
        each["bom-ref"] = each["purl"]
        del each["description"]  # the line in the lock file
    made["components"] += members(dockerfile)
    root = made["metadata"]["component"]
    root |= {"name": f"iot-sensor-{image}", "type": "container"}
    references = sorted(each["bom-ref"] for each in made["components"])
    others = [{"ref": reference} for reference in references]
    made["dependencies"] = [{"ref": root["bom-ref"], "dependsOn": references}, *others]
    return json.dumps(made, indent=2, sort_keys=True) + "\n"


def main() -> int:
    """Write the bills to build/sbom."""
    folder = ROOT / "build/sbom"
    folder.mkdir(parents=True, exist_ok=True)
    for image in IMAGES:
        path = folder / f"iot-sensor-{image}.cdx.json"
        text = bill(image)
        path.write_text(text, encoding="utf-8")
        count = len(json.loads(text)["components"])
        print(f"{path.relative_to(ROOT)}: {count} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
