"""Releases on a real cluster; without a cluster, the tests are skipped with the reason."""

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from e2e import diagnosis, patience
from e2e import options as of_environment
from e2e.cluster import Cluster, NoClusterError
from e2e.helm import Helm, current_chart
from e2e.options import NotEnabledError, Options
from e2e.release import Release
from support.helm import ToolMissingError, find

_HERE = Path(__file__).parent
_CLUSTER = pytest.StashKey[Cluster]()
_REASON = pytest.StashKey[str]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Set the timeout of the tests for slow clusters; each wait has its own limit."""
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.timeout(patience.TEST))
            # A kube config may disable the check of the certificate.
            item.add_marker(
                pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
            )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add a diagnosis of the cluster to failures, and one common reason to skipped tests."""
    report = yield
    if _HERE in item.path.parents:
        cluster = item.config.stash.get(_CLUSTER, None)
        if report.failed and cluster is not None:
            for name in cluster.namespaces:
                report.sections.append((f"cluster: {name}", diagnosis.of_namespace(cluster, name)))
        reason = item.config.stash.get(_REASON, None)
        if report.skipped and reason is not None:
            report.longrepr = (str(_HERE / "README.md"), 1, f"Skipped: {reason}")
    return report


def _impossible(reason: str, asked: pytest.Config) -> NoReturn:
    if of_environment.must(os.environ):
        pytest.fail(reason, pytrace=False)
    asked.stash[_REASON] = reason
    pytest.skip(reason)


@pytest.fixture(scope="session")
def options(pytestconfig: pytest.Config) -> Options:
    """The options from the environment."""
    try:
        return of_environment.read(os.environ)
    except NotEnabledError as error:
        reason = str(error)
    _impossible(reason, pytestconfig)


@pytest.fixture(scope="session")
def cluster(options: Options, pytestconfig: pytest.Config) -> Iterator[Cluster]:
    """The cluster of the context."""
    made, reason = None, ""
    try:
        made = Cluster(options.context)
    except NoClusterError as error:
        reason = str(error)
    if made is None:
        _impossible(reason, pytestconfig)
    pytestconfig.stash[_CLUSTER] = made
    print(f"cluster: {made.host}")
    yield made
    for name in () if options.keep else tuple(made.namespaces):
        made.delete_namespace(name)
    del pytestconfig.stash[_CLUSTER]
    made.close()


@pytest.fixture(scope="session")
def helm(
    options: Options, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Helm:
    """helm for the context."""
    reason = ""
    try:
        find("helm")
    except ToolMissingError as error:
        reason = str(error)
    if reason:
        _impossible(reason, pytestconfig)
    return Helm(options.context, tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="module")
def namespace(cluster: Cluster, options: Options) -> Iterator[str]:
    """A new namespace for each test file."""
    yield from _namespace(cluster, options)


@pytest.fixture(scope="module")
def foreign_namespace(cluster: Cluster, options: Options) -> Iterator[str]:
    """A namespace without the release."""
    yield from _namespace(cluster, options)


@pytest.fixture(scope="module")
def uninstalled(cluster: Cluster, helm: Helm, namespace: str, options: Options) -> Release:
    """A release of the chart of this checkout, not yet installed."""
    return Release(cluster, helm, namespace, current_chart(options))


@pytest.fixture(scope="module")
def release(uninstalled: Release) -> Release:
    """A release of the chart of this checkout, installed and ready."""
    uninstalled.install()
    return uninstalled


def _namespace(cluster: Cluster, options: Options) -> Iterator[str]:
    name = cluster.make_namespace()
    yield name
    if options.keep:
        print(f"kept: namespace {name}")
    else:
        cluster.delete_namespace(name)
