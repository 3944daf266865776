"""The chart, rendered with each set of values, or with a few of them."""

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
"""The sets of values that `--chart-values few` leaves of the matrix."""


@pytest.fixture(scope="session", autouse=True)
def shared_renderings(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> None:
    """Render each set of values once for all processes of pytest-xdist."""
    own = tmp_path_factory.getbasetemp()
    rendering.SHARED.folder = (own if worker_id == "master" else own.parent) / "renderings"
    rendering.SHARED.folder.mkdir(exist_ok=True)


@pytest.fixture(params=MATRIX)
def release(request: pytest.FixtureRequest) -> Release:
    """What a set of values renders to on the newest Kubernetes."""
    return rendered(request.param, NEWEST)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests of all other sets of values, if asked to."""
    if config.getoption("chart_values") == "all":
        return
    other = [item for item in items if _values_set(item) not in {None, *FEW}]
    config.hook.pytest_deselected(items=other)
    items[:] = [item for item in items if _values_set(item) in {None, *FEW}]


def _values_set(item: pytest.Item) -> str | None:
    """Return the set of values that the whole matrix is tested with."""
    if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
        return None
    params = item.callspec.params
    name = params.get("release", params.get("values"))
    return name if isinstance(name, str) and name in MATRIX else None
