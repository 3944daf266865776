"""The chart's alerts in a real Prometheus, which scrapes the service during the run."""

import shutil
from contextlib import ExitStack
from pathlib import Path

import yaml

from chart.matrix import MATRIX, ValuesSet, merged
from chart.rendering import objects, template
from iot_tools.local.child import wait_until
from support.helm import ToolMissingError
from system.prometheus_server import RELEASE, PrometheusServer

BACKLOG_OLD, DEAD_LETTERS = "IotBacklogOld", "IotDeadLetters"
_SHORT = {BACKLOG_OLD: {"for": "1s", "threshold": 1}, DEAD_LETTERS: {"for": "1s"}}
"""Values with which these alerts fire within seconds."""
_PATIENCE_SECONDS = 120.0


class Alerts:
    """The alerts that fire in a Prometheus of the run."""

    def __init__(self, prometheus: PrometheusServer) -> None:
        self._prometheus = prometheus
        self.fired: set[str] = set()
        """The alerts that were waited for, and fired."""

    def wait_for(self, alert: str) -> None:
        """Wait until an alert fires. Raise `TimeoutError` if it does not."""
        if not wait_until(lambda: self._fires(alert), _PATIENCE_SECONDS, interval=0.2):
            raise TimeoutError(f"the alert {alert} does not fire")
        self.fired.add(alert)

    def still_firing(self) -> list[str]:
        """Wait for the fired alerts to end, up to a timeout. Return the alerts that still fire."""

        def left() -> list[str]:
            return [alert for alert in sorted(self.fired) if self._fires(alert)]

        wait_until(lambda: not left(), _PATIENCE_SECONDS, interval=0.2)
        return left()

    def _fires(self, alert: str) -> bool:
        found = self._prometheus.firing().get(alert)
        return found is not None and found["labels"].items() >= RELEASE.items()


def scrape(metrics_port: int, folder: Path, stack: ExitStack) -> Alerts | None:
    """Start a Prometheus that scrapes the API until the stack is closed.

    None if Prometheus or Helm is not installed: no fault waits for an alert then.
    """
    if shutil.which("prometheus") is None:
        print("skipped: alerts need prometheus")
        return None
    try:
        rules = _rules(folder)
    except ToolMissingError as error:
        print(f"skipped: alerts: {error}")
        return None
    server = PrometheusServer(folder, {"api": metrics_port}, rules)
    stack.callback(server.stop)
    return Alerts(server)


def _rules(folder: Path) -> Path:
    """Return the rendered alerts as a rules file of Prometheus."""
    values = merged(MATRIX["service-monitor"].values, {"metrics": {"rules": {"alerts": _SHORT}}})
    release = RELEASE["app_kubernetes_io_instance"]
    text = template(ValuesSet(values, release=release, namespace=RELEASE["namespace"]))
    (rule,) = (each for each in objects(text) if each["kind"] == "PrometheusRule")
    path = folder / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": rule["spec"]["groups"]}), encoding="utf-8")
    return path
