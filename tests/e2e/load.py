"""Load on a release: `iot-sensor soak` in a pod, and its report."""

import json
from collections.abc import Mapping
from typing import Any

from e2e import patience
from e2e.bodies import STOP
from e2e.cluster import Cluster

Report = Mapping[str, Any]
_TAIL = 5


class Load:
    """A load that starts when it is created and runs until it is stopped."""

    def __init__(self, cluster: Cluster, namespace: str, body: Mapping[str, Any]) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._report: Report | None = None
        self._name = cluster.start_pod(namespace, body)

    def go_on(self, count: int = 5) -> None:
        """Wait until `count` more readings of every device are acknowledged."""
        before = self._least()
        self._cluster.wait(
            lambda: self._least() >= before + count,
            patience.GO_ON,
            f"{count} more acknowledgements for every device (there were {before})",
        )

    def stop(self) -> Report:
        """Stop the load, and return its report when all sent readings have been read back."""
        if self._report is None:
            self._cluster.core.patch_namespaced_pod(
                self._name, self._namespace, {"metadata": {"annotations": {STOP: "now"}}}
            )
            _, log = self._cluster.end_of_pod(self._namespace, self._name, patience.LOAD_END)
            self._report = last(log, "report")
            assert self._report is not None, f"no report of the load:\n{log}"
            print(f"load: {json.dumps(self._report)}")
        return self._report

    def _least(self) -> int:
        progress = last(
            self._cluster.log(self._namespace, self._name, tail_lines=_TAIL), "progress"
        )
        return int(progress["least"]) if progress else 0


def last(log: str, kind: str) -> Report | None:
    """Return the last complete line of that kind, or None."""
    for line in reversed(log.splitlines()):
        if line.startswith(f'{{"{kind}"'):
            try:
                found: Report = json.loads(line)[kind]
            except ValueError:
                continue  # the line is still being written
            return found
    return None


def assert_nothing_lost(report: Report) -> None:
    """Assert that every acknowledged reading is stored once, as it was sent."""
    assert report["acknowledged"] > 0, report
    wrong = {name: report[name] for name in ("lost", "doubled", "strange", "not_stored")}
    assert not any(wrong.values()), report


def assert_no_request_failed(report: Report) -> None:
    """Assert that every request succeeded and no reading was lost."""
    assert_nothing_lost(report)
    wrong = {name: report[name] for name in ("failed", "refused", "unsure")}
    assert not any(wrong.values()), report
    assert report["well"], report
