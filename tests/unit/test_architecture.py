"""What the architecture says of the code, held by reading the code."""

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from itertools import chain
from pathlib import Path

import pytest
from rq import Queue

from iot_models import names
from iot_models.declared_metrics import METRICS
from iot_models.settings import Settings
from support.keys import KEYS

ROOT = Path(__file__).parents[2]
SHARED = {"iot_models", "iot_cipher", "iot_stores"}
SERVICES = {"iot_api", "iot_writer"}
CLIENT = "iot_sensor_client"
ALLOWED = {
    "shared/models": set[str](),
    "shared/cipher": {"iot_models"},
    "shared/stores": {"iot_models", "iot_cipher"},
    "clients/python": set[str](),
    "services/api": SHARED,
    "services/writer": SHARED,
    "tools": SHARED | SERVICES | {CLIENT},
}
"""Which of our packages each member may import, besides its own."""
LONGEST_FILE = 450


def sources(member: str) -> list[Path]:
    found = [
        path
        for path in sorted((ROOT / member).rglob("*.py"))
        if not {"build", "__pycache__"} & set(path.parts)
    ]
    assert found, member
    return found


def imports(path: Path) -> Iterator[str]:
    """The top-level packages that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield ast.unparse(node.args[0]).strip("'\"").partition(".")[0]


@cache
def constants(path: Path) -> frozenset[str]:
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return frozenset(
        node.value
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


OUR_SOURCES = [path for member in ALLOWED for path in sources(member)]


def test_every_member_of_the_workspace_is_known_here() -> None:
    members = {
        str(path.parent.relative_to(ROOT))
        for pattern in ("clients/*", "services/*", "shared/*", "tools")
        for path in ROOT.glob(f"{pattern}/pyproject.toml")
    }
    assert members == set(ALLOWED)


@pytest.mark.parametrize("member", ALLOWED)
def test_imports_go_down_only(member: str) -> None:
    """Shared code imports no service, and API and writer never one another."""
    (own,) = (path.parent.name for path in (ROOT / member).glob("iot_*/__init__.py"))
    ours = SHARED | SERVICES | {CLIENT, "iot_tools"}
    for path in sources(member):
        forbidden = set(imports(path)) & ours - ALLOWED[member] - {own}
        assert not forbidden, f"{path.relative_to(ROOT)} imports {forbidden}"


@pytest.mark.parametrize(
    ("member", "foreign"),
    [
        ("shared", {"flask", "rq", "gunicorn", "gevent", "werkzeug"}),
        ("shared/models", {"redis", "psycopg", "cryptography"}),
        ("shared/cipher", {"redis", "psycopg"}),
        ("services/api", {"rq"}),
        ("services/writer", {"flask", "werkzeug", "gunicorn", "gevent"}),
    ],
)
def test_what_a_member_has_nothing_to_do_with(member: str, foreign: set[str]) -> None:
    for path in sources(member):
        assert not foreign & set(imports(path)), path.relative_to(ROOT)


def test_the_client_needs_the_standard_library_only() -> None:
    for path in sources("clients/python"):
        extras = {"pandas", "pyarrow"} if path.name == "tables.py" else set[str]()
        foreign = set(imports(path)) - sys.stdlib_module_names - {CLIENT} - extras
        assert not foreign, f"{path.relative_to(ROOT)} imports {foreign}"


API = ROOT / "services/api/iot_api"
API_LAYERS = {
    "description": set[str](),
    "limits": set[str](),
    "page": set[str](),
    "audit": {"limits"},
    "http": {"limits"},
    "server": {"http", "limits"},
    "vaults": {"limits"},
    "status": {"limits"},
    "query": {"audit", "http", "limits"},
    "ingest": {"http", "limits", "server", "service", "vaults"},
    "live": {"audit", "limits", "vaults"},
    "routes": {
        *("audit", "description", "http", "ingest", "limits", "live", "page", "query"),
        *("server", "service", "vaults"),
    },
}
"""Which packages of the API each of them may import, besides itself."""
USES_FLASK = {"http", "routes", "query/responses.py"}


def test_packages_of_the_api_import_downwards() -> None:
    packages = {path.parent.name for path in API.glob("*/__init__.py")}
    assert packages == set(API_LAYERS)
    for package, allowed in API_LAYERS.items():
        for path in sorted((API / package).glob("*.py")):
            found = re.findall(r"(?:from|import) iot_api\.([a-z_]+)", path.read_text("utf-8"))
            forbidden = set(found) - allowed - {package}
            assert not forbidden, f"{path.relative_to(API)} imports {forbidden}"


def test_logic_does_not_import_flask() -> None:
    logic = [
        path
        for package in API_LAYERS
        for path in sorted((API / package).glob("*.py"))
        if not {package, f"{package}/{path.name}"} & USES_FLASK
    ]
    assert len(logic) > 30
    for path in logic:
        assert "flask" not in set(imports(path)), path.relative_to(API)


def test_the_list_that_the_api_pushes_to_is_the_one_that_rq_takes_from() -> None:
    assert Queue.redis_queue_namespace_prefix + names.JOB_QUEUE == KEYS.job_list


def test_every_metric_is_declared_and_every_declared_one_is_used() -> None:
    declared = {each.name for each in METRICS}
    assert len(declared) == len(METRICS)
    used: set[str] = set()
    for path in OUR_SOURCES:
        if path.name != "declared_metrics.py" or path.parent.name != "iot_models":
            used |= {text for text in constants(path) if re.fullmatch(r"iot_[a-z_]+", text)}
    used -= SHARED | SERVICES | {CLIENT, "iot_tools"}
    assert used == declared


def test_every_setting_is_used() -> None:
    """The test finds a use only if the variable is called `settings` (or `_settings`)."""
    used: set[str] = set()
    for path in OUR_SOURCES:
        if path.name != "settings.py":  # it only checks the values
            used |= set(re.findall(r"settings\.(\w+)", path.read_text(encoding="utf-8")))
    assert {each.name for each in fields(Settings)} <= used


def test_metrics_are_used_by_the_service_they_are_declared_for() -> None:
    for each in METRICS:
        others = SERVICES - {f"iot_{each.service}"}
        for path in OUR_SOURCES:
            if others & set(path.parts):
                assert each.name not in constants(path), path.relative_to(ROOT)


def test_redis_names_stand_in_one_place() -> None:
    for path in OUR_SOURCES:
        if path.name != "names.py":
            for text in constants(path):
                assert not re.match(r"iot:[a-z]|rq:[a-z]", text), (
                    f"{path.relative_to(ROOT)}: {text}"
                )


def test_settings_are_read_in_one_place() -> None:
    """Only what starts other programs may look at the environment besides."""
    for path in chain.from_iterable(map(sources, ("shared", "services"))):
        # `tracing.py` reads the variables of OpenTelemetry, which are no settings of ours.
        if path.name not in {"settings.py", "gunicorn_conf.py", "tracing.py"}:
            text = path.read_text(encoding="utf-8")
            # RQ reads its own variable when it is imported: the writer sets it from the settings.
            text = text.replace('os.environ["RQ_KEY_PREFIX"] = ', "")
            assert not re.search(r"os\.(environ|getenv)", text), path.relative_to(ROOT)


def test_every_transaction_has_an_idle_limit() -> None:
    """A process that hangs in a transaction must not keep its locks (`postgres.transaction`)."""
    own = {
        "postgres.py",
        "audit_check.py",  # takes no lock that others wait for
        "audit_reseal.py",  # computes for longer than the limit, and drains do not wait for it
    }
    for path in OUR_SOURCES:
        if path.name not in own:
            text = path.read_text(encoding="utf-8")
            assert ".transaction(" not in text, path.relative_to(ROOT)


def test_no_file_is_too_long() -> None:
    files = [*OUR_SOURCES, *sources("tests")]
    long = {
        str(path.relative_to(ROOT)): length
        for path in files
        if (length := len(path.read_text(encoding="utf-8").splitlines())) >= LONGEST_FILE
    }
    assert not long


def test_requirements_name_no_host_and_pin_by_hash() -> None:
    files = sorted((ROOT / "requirements").glob("*.txt"))
    assert {path.stem for path in files} >= {"api", "writer", "local", "dev"}
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert "://" not in text, path.name
        assert "--hash=sha256:" in text
        pins = re.findall(r"^[a-z][\w.\[\]-]*==", text, re.MULTILINE)
        assert pins
        assert not re.search(r"^[a-z][\w.-]*\s*(@|>=|~=)", text, re.MULTILINE), path.name
