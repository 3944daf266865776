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
    "tests/system/reliability/test_rolling_restart.py",
    "tests/system/reliability/test_connections.py",
    "tests/system/reliability/test_restored_postgres.py",
    "tests/system/tools/test_canary.py",
    "tests/system/tools/test_soak.py",
    "tests/system/",
    "tests/integration/rotation/test_kills.py",
    "tests/integration/writer/test_hot_window_coverage.py",
    "tests/integration/api/",
    "tests/integration/",
    "tests/unit/models/test_json_dialect.py",
    "tests/chart/test_rendering.py",
)
"""Files and folders in the order of the time that a file takes, the longest first."""
TEST_BY_TEST = (
    "tests/system/reliability/",
    "tests/system/rights/",
    "tests/system/test_refused_settings.py",
    "tests/system/tools/test_migrate.py",
    "tests/system/tools/test_vault_password.py",
)
"""Files and folders whose tests share no fixtures, so that each test may run in any process."""
SERVICE_BY_SERVICE = {
    "tests/system/reliability/test_graceful_end.py": r"",
    "tests/system/reliability/test_greedy_clients.py": r"",
    "tests/system/reliability/test_idle_connections.py": r"\[.*\]",
    "tests/system/reliability/test_password_change.py": r"",
    "tests/system/reliability/test_range_erasure.py": r"",
    "tests/system/reliability/test_restored_postgres.py": r"",
    "tests/system/reliability/test_rolling_restart.py": r"",
    "tests/system/reliability/test_shared_redis.py": r"",
    "tests/system/reliability/test_skewed_clocks.py": r"the_api|a_writer",
    "tests/system/reliability/test_vault_erasure.py": r"",
    "tests/system/states/test_redis_states.py": r"\[.*-",
}
"""Files whose tests share services, and the part of a test's name that stands for its service."""
WAITING = (
    "tests/integration/api/test_client_certificates.py",
    "tests/integration/writer/test_migration_locks.py",
    "tests/system/states/test_redis_watch_timing.py",
    "tests/system/local/test_postgres_server.py",
    "tests/system/reliability/test_certificate_renewal.py",
    "tests/system/reliability/test_idle_connections.py",
    "tests/system/reliability/test_mistyped_keys.py",
    "tests/system/reliability/test_password_change.py",
    "tests/system/reliability/test_planted_counters.py",
    "tests/system/reliability/test_replicas.py",
    "tests/system/reliability/test_sentinel_passwords.py",
    "tests/system/reliability/test_sentinels.py",
    "tests/system/reliability/test_slow_peers.py",
    "tests/system/reliability/test_wait_fsync.py",
)
"""Files whose tests mostly wait for timeouts. They can run while other tests use all CPU time."""


def rank(nodeid: str) -> int:
    """Return the place of a test in the order."""
    return next((place for place, path in enumerate(LONGEST) if nodeid.startswith(path)), 100)


class LongestFirst(LoadScopeScheduling):  # type: ignore[misc]
    """A scheduler that runs most files in one process each, and some folders test by test.

    With `--waiting-process`, the last process begins with the tests of `WAITING`.
    """

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
        if self.workqueue and not node.shutting_down and self._pending_of(work) == 2:
            return
        super()._reschedule(node)

    def _assign_work_unit(self, node: WorkerController) -> None:
        self.workqueue.move_to_end(self._next_scope(node), last=False)
        super()._assign_work_unit(node)

    def _next_scope(self, node: WorkerController) -> str:
        """Return the next file or test for a process."""
        queue = list[str](self.workqueue)
        if not self.config.getoption("waiting_process") or self.numnodes == 1:
            return queue[0]
        waits = node.gateway.id == f"gw{self.numnodes - 1}"
        return next((each for each in queue if each.startswith(WAITING) == waits), queue[0])
