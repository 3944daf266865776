# ruff: noqa: INP001 -- a script beside the files that it reads
"""Compares every locked package with the advisories of PyPI or OSV: `make audit`.

pip-audit does the work. Two of its outcomes need care. A package mirror may answer 404 for all
advisories, and pip-audit then skips every package and reports no vulnerability. Without a network
it ends with a traceback. Both mean that nothing was checked.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REQUIREMENTS = Path(__file__).parent
PIP_AUDIT = (sys.executable, "-m", "pip_audit")
SERVICES = ("pypi", "osv")
_OPTIONS = ("--disable-pip", "--require-hashes", "--progress-spinner", "off", "--format", "json")
_NETWORK = ("requests.exceptions.", "urllib3.exceptions.", "Could not connect to", "redirecting")
"""What pip-audit writes when a service can't be reached or answers with an error."""


class UnreachableError(Exception):
    """A service has no advisories for us."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What a service knows of the locked packages."""

    audited: int
    vulnerable: list[str]
    skipped: list[str]
    """Packages that the service does not know."""


def findings(report: dict[str, Any]) -> Findings:
    """Read pip-audit's report.

    Raises:
        UnreachableError: the service knows none of the packages.
    """
    # A package is listed once for each file and version.
    listed = {json.dumps(each, sort_keys=True): each for each in report["dependencies"]}.values()
    skipped = [each["name"] for each in listed if "skip_reason" in each]
    audited = [each for each in listed if "skip_reason" not in each]
    if not audited:
        raise UnreachableError("it knows none of the packages, as behind a package mirror")
    vulnerable = [
        f"{each['name']} {each['version']}: {found['id']}, {_fix(found['fix_versions'])}"
        for each in audited
        for found in each["vulns"]
    ]
    return Findings(len(audited), sorted(vulnerable), sorted(set(skipped)))


def _fix(versions: Sequence[str]) -> str:
    return f"fixed in {', '.join(versions)}" if versions else "not fixed in any version"


def audit(service: str, files: Sequence[Path], command: Sequence[str] = PIP_AUDIT) -> Findings:
    """Run pip-audit.

    Raises:
        UnreachableError: the service can't be reached, or knows none of the packages.
        RuntimeError: pip-audit failed for another reason. The message is its output.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "report.json"
        options = [*_OPTIONS, "--output", str(output), "--vulnerability-service", service]
        for file in files:
            options += ["--requirement", str(file)]
        done = subprocess.run(  # noqa: S603 -- our own arguments
            [*command, *options], capture_output=True, text=True, check=False
        )
        if output.exists():
            return findings(json.loads(output.read_text(encoding="utf-8")))
    if any(sign in done.stderr for sign in _NETWORK):
        raise UnreachableError(done.stderr.strip().splitlines()[-1])
    raise RuntimeError(done.stderr)


def report(found: Findings, service: str) -> int:
    """Print what was found; return 1 if something needs attention."""
    for line in found.vulnerable:
        print(f"audit: {line}")
    if found.skipped:
        print(f"audit: {service} has no advisories for: {', '.join(found.skipped)}")
    print(f"audit: {len(found.vulnerable)} vulnerabilities in {found.audited} packages ({service})")
    return int(bool(found.vulnerable or found.skipped))


def main(command: Sequence[str] = PIP_AUDIT) -> int:
    """Audit all lock files. Return 1 for a vulnerability, and 0 if no service can be reached."""
    files = sorted(REQUIREMENTS.glob("*.txt"))
    for service in SERVICES:
        try:
            return report(audit(service, files, command), service)
        except UnreachableError as error:
            print(f"audit: {service} can't be used: {error}")
        except RuntimeError as error:
            print(f"audit: pip-audit failed:\n{error}", file=sys.stderr)
            return 1
    print("audit: NOT AUDITED: no advisory service can be reached from here")
    return 0


if __name__ == "__main__":
    sys.exit(main())
