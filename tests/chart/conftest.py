"""The chart, rendered with all sets of values or with a selection."""

import pytest

from chart import rendering
from chart.matrix import MATRIX
from chart.release import Release
from chart.rendering import rendered
from chart.schemas import NEWEST

FEW = (
    "demo",
    "production",
    "own-keys-of-secrets",
    "hot-window",
    "keda",
    "service-monitor",
    "canary",
    "extras",
)
"""The sets of values that `--chart-values few` selects."""


@pytest.fixture(scope="session", autouse=True)
def shared_renderings(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> None:
    """Render each set of values once for all processes of pytest-xdist."""
    own = tmp_path_factory.getbasetemp()
    rendering.SHARED.folder = (own if worker_id == "master" else own.parent) / "renderings"
    rendering.SHARED.folder.mkdir(exist_ok=True)


@pytest.fixture(params=MATRIX)
def release(request: pytest.FixtureRequest) -> Release:
    """The release of a set of values on the newest Kubernetes."""
    return rendered(request.param, NEWEST)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests of all sets of values but `FEW`, unless `--chart-values` is `all`."""
    if config.getoption("chart_values") == "all":
        return
    other = [item for item in items if _values_set(item) not in {None, *FEW}]
    config.hook.pytest_deselected(items=other)
    items[:] = [item for item in items if _values_set(item) in {None, *FEW}]


def _values_set(item: pytest.Item) -> str | None:
    """Return the set of values of a test that runs with the whole matrix, or None."""
    if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
        return None
    params = item.callspec.params
    name = params.get("release", params.get("values"))
    return name if isinstance(name, str) and name in MATRIX else None
