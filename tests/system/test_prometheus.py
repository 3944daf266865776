"""A real Prometheus scrapes the service under load.

Whether the alerts fire is tested with the Prometheus that scrapes the service of the fault runs
(`system/faults/alerts.py`).
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from integration.api.asking import row
from iot_models.declared_metrics import METRICS, Metric
from iot_models.figures import FIGURES
from iot_tools.local.ports import free_port
from support.http_get import http_get
from support.stack import Stack, running_stack
from support.waiting import wait_until
from system.prometheus_server import PrometheusServer, program

DECLARED = [each for each in METRICS if not each.name.startswith("iot_tls_")]
"""The metrics of certificates exist with TLS only: `test_certificate_renewal` and
`test_client_certificates` scrape them."""


@dataclass
class Load:
    """A device that sends readings without a pause."""

    stack: Stack
    acknowledged: int = 0
    _ends: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    def stop(self) -> None:
        """Stop sending. Then `acknowledged` is final."""
        self._ends.set()
        self._thread.join()

    def _send(self) -> None:
        while not self._ends.wait(0.01):
            answer = self.stack.put([row() for _ in range(50)])
            if answer.status == 201:
                self.acknowledged += 50


@dataclass
class Scraped:
    """A service under load, and the Prometheus that scrapes it."""

    stack: Stack
    prometheus: PrometheusServer
    ports: dict[str, int]
    load: Load


@pytest.fixture(scope="module")
def scraped(
    module_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scraped]:
    """A service with two API processes, a writer and a canary."""
    program("prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    ports = {"writer": free_port(), "canary": free_port()}
    # Nobody listens there: the traces are lost, and the exemplars are not.
    tracing = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}"}
    # A record in the audit log: its head is a metric.
    environment = module_environment | tracing | {"IOT_AUDIT_VAULTS": "1"}
    with running_stack(environment, folder, writers=0, metrics=True) as stack:
        ports["api"] = stack.metrics_port
        stack.writer_environment["IOT_WRITER_METRICS_PORT"] = str(ports["writer"])
        stack.start_writer()
        command = [sys.executable, "-m", "iot_tools", "canary", "--every", "1"]
        command += ["--url", stack.url]
        command += ["--metrics-port", str(ports["canary"])]
        canary = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        load = Load(stack)
        server = PrometheusServer(folder, ports, None)
        try:
            yield Scraped(stack, server, ports, load)
        finally:
            load.stop()
            server.stop()
            canary.kill()
            canary.wait()


@pytest.mark.parametrize("component", ["api", "writer", "canary"])
def test_every_declared_metric_has_its_type_and_unit(scraped: Scraped, component: str) -> None:
    def declared(metric: Metric) -> tuple[str, str]:
        return metric.kind, metric.unit

    expected = {each.family: declared(each) for each in DECLARED if each.service == component}
    assert len(expected) > 5
    scraped.stack.read("p", "/seconds/10")
    scraped.stack.read("unknown")

    def missing() -> set[str]:
        return expected.keys() - scraped.prometheus.metadata(component).keys()

    wait_until(lambda: not missing(), what=f"all metrics but {missing()}")
    found = scraped.prometheus.metadata(component)
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize("component", ["api", "writer", "canary"])
def test_promtool_accepts_the_metrics(scraped: Scraped, component: str) -> None:
    status, text = http_get(scraped.ports[component], "/metrics")
    assert status == 200
    done = subprocess.run(
        [program("promtool"), "check", "metrics"], input=text, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_each_figure_of_the_status_is_in_prometheus(scraped: Scraped) -> None:
    def lacking() -> list[str]:
        return [path for path, query in FIGURES.items() if not scraped.prometheus.query(query)]

    wait_until(lambda: not lacking(), what=f"all figures but {lacking()}")


def test_counters_survive_the_restart_of_a_worker(scraped: Scraped) -> None:
    acknowledged = "sum(iot_readings_acknowledged_total)"
    first, _ = scraped.stack.workers()
    os.kill(first, signal.SIGTERM)
    wait_until(lambda: len(scraped.stack.workers() - {first}) == 2, what="another worker")
    scraped.load.stop()

    def counted() -> float:
        # The canary sends readings, too.
        sent = scraped.prometheus.value("sum(iot_canary_sent_total)") or 0
        return (scraped.prometheus.value(acknowledged) or 0) - sent

    wait_until(lambda: counted() >= scraped.load.acknowledged, what="all readings")
    assert counted() <= scraped.load.acknowledged + 2  # what the canary sent between two scrapes
    assert scraped.prometheus.value("sum(resets(iot_readings_acknowledged_total[5m]))") == 0


def test_exemplars_lead_to_the_traces_of_puts(scraped: Scraped) -> None:
    trace = "a1" * 16
    headers = {"Content-Type": "application/json", "traceparent": f"00-{trace}-{'b2' * 8}-01"}

    def found() -> bool:
        scraped.stack.request("PUT", "/api/iot", json.dumps(row("traced")), headers)
        return trace in scraped.prometheus.traces("iot_readable_after_seconds")

    wait_until(found, what="the trace of a PUT")
