"""The order in which pytest-xdist runs the tests: the longest first."""

from xdist.scheduler import LoadScopeScheduling

LONGEST = ("tests/system/test_confidentiality.py",)
"""Files whose tests take more than ten seconds, the longest first."""
TEST_BY_TEST = ("tests/system/reliability/",)
"""Folders whose files share no fixture between their tests: each test may run in any process."""


def rank(nodeid: str) -> int:
    """Return the place of a test's file in the order."""
    file = nodeid.partition("::")[0]
    return LONGEST.index(file) if file in LONGEST else len(LONGEST)


class LongestFirst(LoadScopeScheduling):  # type: ignore[misc]
    """Gives the tests of a file to one process, in order; those of some folders one by one."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid if nodeid.startswith(TEST_BY_TEST) else nodeid.partition("::")[0]
