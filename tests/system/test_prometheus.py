"""A real Prometheus scrapes the service under load, and the chart's alerts fire in it."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from redis import Redis

from chart.matrix import MATRIX, ValuesSet, merged
from chart.rendering import objects, template
from integration.api.asking import row
from iot_models.declared_metrics import METRICS, Metric
from iot_models.figures import FIGURES
from iot_tools.cli.main import main
from iot_tools.local.ports import free_port
from support.helm import ToolMissingError
from support.http_get import http_get
from support.keys import KEYS
from support.stack import Stack, running_stack
from support.waiting import wait_until
from system.prometheus_server import RELEASE, PrometheusServer, program

SHORT = {"IotBacklogOld": {"for": "1s", "threshold": 1}, "IotDeadLetters": {"for": "1s"}}
"""Values with which alerts fire within seconds."""
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
    redis: "Redis"


def rules(folder: Path) -> Path:
    """Return the rendered alerts as a rules file of Prometheus."""
    values = merged(MATRIX["service-monitor"].values, {"metrics": {"rules": {"alerts": SHORT}}})
    try:
        text = template(
            ValuesSet(values, release=RELEASE["app_kubernetes_io_instance"], namespace="default")
        )
    except ToolMissingError as error:
        pytest.skip(str(error))
    (rule,) = (each for each in objects(text) if each["kind"] == "PrometheusRule")
    path = folder / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": rule["spec"]["groups"]}), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def scraped(
    module_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scraped]:
    """A service with two API processes, a writer and a canary."""
    program("prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    ports = {"writer": free_port(), "canary": free_port()}
    alerts = rules(folder)
    # Nobody listens there: the traces are lost, and the exemplars are not.
    tracing = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}"}
    environment = module_environment | tracing
    with running_stack(environment, folder, writers=0, metrics=True) as stack:
        ports["api"] = stack.metrics_port
        stack.writer_environment["IOT_WRITER_METRICS_PORT"] = str(ports["writer"])
        stack.start_writer()
        command = [sys.executable, "-m", "iot_tools", "canary", "--every", "1"]
        command += ["--url", f"http://127.0.0.1:{stack.port}"]
        command += ["--metrics-port", str(ports["canary"])]
        canary = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        load = Load(stack)
        server = PrometheusServer(folder, ports, alerts)
        try:
            with Redis.from_url(module_environment["IOT_REDIS_URL"]) as redis:
                yield Scraped(stack, server, ports, load, redis)
        finally:
            load.stop()
            server.stop()
            canary.kill()
            canary.wait()


def fires(scraped: Scraped, alert: str) -> Callable[[], bool]:
    return lambda: alert in scraped.prometheus.firing()


def test_the_alert_on_an_old_backlog_fires(scraped: Scraped) -> None:
    (writer,) = scraped.stack.writers
    wait_until(lambda: scraped.prometheus.value("sum(iot_readings_stored_total)"), what="a drain")
    assert "IotBacklogOld" not in scraped.prometheus.firing()
    os.kill(writer.pid, signal.SIGSTOP)
    try:
        wait_until(fires(scraped, "IotBacklogOld"), what="the alert")
    finally:
        os.kill(writer.pid, signal.SIGCONT)
    alert = scraped.prometheus.firing().get("IotBacklogOld")
    if alert is not None:
        assert alert["labels"].items() >= RELEASE.items()
    wait_until(lambda: not fires(scraped, "IotBacklogOld")(), what="the end of the alert")


def test_the_alert_on_dead_letters_fires(
    scraped: Scraped, module_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scraped.redis.xadd(KEYS.stream(0), {"e": b"planted", "t": 0})
    wait_until(fires(scraped, "IotDeadLetters"), what="the alert")
    for name, value in module_environment.items():
        monkeypatch.setenv(name, value)
    assert main(["dead", "drop", "--all"]) == 0
    wait_until(lambda: not fires(scraped, "IotDeadLetters")(), what="the end of the alert")


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
