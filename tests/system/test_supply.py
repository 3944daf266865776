"""`make audit` never takes an unreachable service for a clean result; `make sbom` lists what is
installed; the update bot covers every lock file.
"""

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
AUDITED = {"name": "flask", "version": "3.1.3", "vulns": []}
SKIPPED = {"name": "rq", "skip_reason": "Dependency not found on PyPI and could not be audited"}
VULNERABLE = {
    "name": "redis",
    "version": "8.1.0",
    "vulns": [{"id": "PYSEC-1", "fix_versions": ["8.1.1"], "aliases": [], "description": ""}],
}


def script(name: str) -> ModuleType:
    """Import a script of `requirements/`, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"requirements/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # `dataclass` looks its module up.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    """The script of `make audit`."""
    return script("audit")


class PipAudit:
    """A program in place of pip-audit: it writes a report, or fails with a text."""

    def __init__(self, folder: Path) -> None:
        self._program = folder / "pip_audit.py"
        self._calls = folder / "calls"
        self.command = (sys.executable, str(self._program))

    def answers(self, *dependencies: object, error: str = "", code: int = 0) -> None:
        """Set the dependencies of the report (none: no report is written), stderr and exit code."""
        report = json.dumps({"dependencies": dependencies, "fixes": []})
        write = f"pathlib.Path(output).write_text({report!r})" if dependencies else "pass"
        self._program.write_text(
            f"import pathlib, sys\n"
            f"output = sys.argv[sys.argv.index('--output') + 1]\n"
            f"pathlib.Path({str(self._calls)!r}).open('a').write(' '.join(sys.argv) + '\\n')\n"
            f"{write}\n"
            f"sys.stderr.write({error!r})\n"
            f"sys.exit({code})\n",
            encoding="utf-8",
        )

    @property
    def calls(self) -> list[str]:
        """The arguments of each call."""
        return self._calls.read_text(encoding="utf-8").splitlines()


@pytest.fixture
def pip_audit(tmp_path: Path) -> PipAudit:
    """pip-audit's stand-in."""
    return PipAudit(tmp_path)


def test_packages_without_advisories_pass(
    audit: ModuleType, pip_audit: PipAudit, capsys: pytest.CaptureFixture[str]
) -> None:
    pip_audit.answers(AUDITED)
    assert audit.main(pip_audit.command) == 0
    assert capsys.readouterr().out == "audit: 0 vulnerabilities in 1 packages (pypi)\n"
    (call,) = pip_audit.calls
    for path in (ROOT / "requirements").glob("*.txt"):
        assert f"--requirement {path}" in call
    assert "--require-hashes" in call


def test_a_vulnerability_fails(
    audit: ModuleType, pip_audit: PipAudit, capsys: pytest.CaptureFixture[str]
) -> None:
    pip_audit.answers(AUDITED, VULNERABLE, VULNERABLE, code=1)
    assert audit.main(pip_audit.command) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "audit: redis 8.1.0: PYSEC-1, fixed in 8.1.1"
    assert lines[-1] == "audit: 1 vulnerabilities in 2 packages (pypi)"


def test_a_package_that_was_not_checked_fails(
    audit: ModuleType, pip_audit: PipAudit, capsys: pytest.CaptureFixture[str]
) -> None:
    pip_audit.answers(AUDITED, SKIPPED)
    assert audit.main(pip_audit.command) == 1
    assert "pypi has no advisories for: rq\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("dependencies", "error"),
    [
        # A mirror answers 404 for each package; pip-audit then reports no vulnerability.
        ([SKIPPED], "No known vulnerabilities found\n"),
        ([], "Traceback ...\nrequests.exceptions.ConnectionError: Max retries exceeded\n"),
        ([], "ERROR:pip_audit._cli:Could not connect to PyPI's vulnerability feed\n"),
    ],
)
def test_an_unreachable_service_is_said_and_passes(
    audit: ModuleType,
    pip_audit: PipAudit,
    dependencies: list[object],
    error: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pip_audit.answers(*dependencies, error=error, code=0 if dependencies else 1)
    assert audit.main(pip_audit.command) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "audit: NOT AUDITED: no advisory service can be reached from here"
    assert [line.split()[1] for line in said[:-1]] == ["pypi", "osv"]
    asked = [re.findall(r"--vulnerability-service (\w+)", call) for call in pip_audit.calls]
    assert asked == [["pypi"], ["osv"]]


def test_another_failure_fails(
    audit: ModuleType, pip_audit: PipAudit, capsys: pytest.CaptureFixture[str]
) -> None:
    pip_audit.answers(error="ERROR:pip_audit._cli:requirement flask has no hash\n", code=1)
    assert audit.main(pip_audit.command) == 1
    assert "has no hash" in capsys.readouterr().err


@pytest.mark.parametrize("image", ["api", "writer"])
def test_a_bill_lists_what_the_image_installs(image: str) -> None:
    pytest.importorskip("cyclonedx_py", reason="not installed: run make .venv/.supply")
    sbom = script("sbom")
    text = sbom.bill(image)
    assert sbom.draft(image) == text
    assert str(ROOT) not in text
    made: dict[str, Any] = json.loads(text)
    assert (made["bomFormat"], made["specVersion"]) == ("CycloneDX", "1.6")
    assert made["metadata"]["component"]["name"] == f"iot-sensor-{image}"
    found = {each["name"]: each for each in made["components"]}
    assert len(found) == len(made["components"])
    lock = (ROOT / f"requirements/{image}.txt").read_text(encoding="utf-8")
    pins = dict(re.findall(r"^([a-z][\w.-]*)(?:\[.*?\])?==([^ ;]+)", lock, re.MULTILINE))
    ours = {name for name in found if name.startswith("iot-")}
    elsewhere = {"async-timeout", "tzdata"} & pins.keys() - found.keys()
    assert found.keys() - ours == pins.keys() - elsewhere
    for name in found.keys() - ours:
        assert found[name]["version"] == pins[name]
        hashes = {each["content"] for each in found[name]["externalReferences"][0]["hashes"]}
        assert hashes
        assert all(f"--hash=sha256:{each}" in lock for each in hashes)
    assert {f"iot-{image}", "iot-models", "iot-cipher", "iot-stores"} <= ours
    root = made["dependencies"][0]
    assert set(root["dependsOn"]) == {each["bom-ref"] for each in made["components"]}


def test_the_update_bot_covers_every_lock_file_and_image() -> None:
    config = json.loads((ROOT / "renovate.json").read_text(encoding="utf-8"))
    (pattern,) = config["pip_requirements"]["managerFilePatterns"]
    found = re.compile(pattern.strip("/"))
    for path in (ROOT / "requirements").glob("*.txt"):
        assert found.search(str(path.relative_to(ROOT)))
    assert set(config["enabledManagers"]) == {"pip_requirements", "dockerfile"}
    (grouped,) = (
        rule for rule in config["packageRules"] if rule["matchManagers"] == ["pip_requirements"]
    )
    assert grouped["groupName"]
