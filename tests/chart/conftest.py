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


@pytest.fixture
def release(request: pytest.FixtureRequest) -> Release:
    """The release of a set of values on the newest Kubernetes."""
    return rendered(request.param, NEWEST)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests of `release` or `values_set` with each set of values that was selected."""
    sets = FEW if metafunc.config.getoption("chart_values") == "few" else tuple(MATRIX)
    for name in {"release", "values_set"} & {*metafunc.fixturenames}:
        metafunc.parametrize(name, sets, indirect=name == "release")
