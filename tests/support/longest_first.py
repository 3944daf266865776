"""The order in which pytest-xdist runs the tests: the longest first."""

import re

from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

LONGEST = (
    "tests/system/faults/test_short.py",
    "tests/system/faults/test_outboxes.py",
    "tests/system/states/test_redis_states.py",
    "tests/system/states/test_postgres_states.py",
    "tests/system/test_confidentiality.py",
    "tests/system/test_leaks.py",
    "tests/system/upgrade/test_recorded_versions.py",
    "tests/system/bench/test_measures.py",
    "tests/system/reliability/test_read_memory.py",
    "tests/system/local/test_make_run.py",
    "tests/system/chart/test_running.py",
    "tests/system/reliability/test_key_rotation.py",
    "tests/system/upgrade/test_rolling_update.py",
    "tests/system/reliability/test_killed_writers.py",
    "tests/system/reliability/test_connections.py",
    "tests/system/",
    "tests/unit/test_supply.py",
    "tests/integration/rotation/test_kills.py",
    "tests/integration/stores/test_greenlets.py",
    "tests/integration/stores/test_redis_watch_timing.py",
    "tests/integration/writer/test_hot_window_coverage.py",
    "tests/integration/api/",
    "tests/integration/",
    "tests/unit/api/http/test_json_dialect.py",
    "tests/chart/test_rendering.py",
)
"""Files and folders in the order of the time that a file takes, the longest first."""
TEST_BY_TEST = (
    "tests/system/reliability/",
    "tests/system/rights/",
    "tests/system/tools/",
    "tests/system/test_refused_settings.py",
)
"""Files and folders whose tests share no fixtures, so that each test may run in any process."""
SERVICE_BY_SERVICE = {
    "tests/system/reliability/test_greedy_clients.py": r"",
    "tests/system/reliability/test_idle_connections.py": r"\[.*\]",
    "tests/system/states/test_redis_states.py": r"\[.*-",
}
"""Files whose tests share services, and the part of a test's name that stands for its service."""


def rank(nodeid: str) -> int:
    """Return the place of a test in the order."""
    return next((place for place, path in enumerate(LONGEST) if nodeid.startswith(path)), 100)


class LongestFirst(LoadScopeScheduling):  # type: ignore[misc]
    """A scheduler that runs most files in one process each, and some folders test by test."""

    def _split_scope(self, nodeid: str) -> str:
        file, _, test = nodeid.partition("::")
        if file in SERVICE_BY_SERVICE:
            service = re.search(SERVICE_BY_SERVICE[file], test)
            return file + (service[0] if service else "")
        return nodeid if file.startswith(TEST_BY_TEST) else file

    def _reschedule(self, node: WorkerController) -> None:
        """Assign more tests to a process that begins its last one.

        xdist assigns the next file one test earlier, and that file then waits for two tests.
        """
        work = self.assigned_work[node]
        if self.workqueue and self._pending_of(work) == 2 and not node.shutting_down:
            return
        super()._reschedule(node)
