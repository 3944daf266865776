"""`/metrics` of the API covers all its processes on a separate port."""

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from integration.api.asking import JSON, Api, row, sample
from iot_models.declared_metrics import METRICS
from iot_tools.cli.main import main
from support.stack import Stack
from support.waiting import wait_until

SETTLED_SECONDS = 1.0
"""Ten times as long as a process waits before it adds its counts to the metrics."""
OURS = [each for each in METRICS if each.service == "api" and not each.name.startswith("iot_tls_")]
"""`test_certificate_renewal` scrapes the metric of the certificate, which needs one."""


def scrape(stack: Stack) -> dict[str, Metric]:
    answer = stack.request("GET", "/metrics", port=stack.metrics_port)
    assert answer.status == 200
    return {each.name: each for each in text_string_to_metric_families(answer.body.decode())}


def value(stack: Stack, name: str, **labels: str) -> float:
    """Return the sum of the samples with these labels."""
    family = scrape(stack).get(name.removesuffix("_total"))
    samples = family.samples if family else []
    return sum(
        each.value
        for each in samples
        if each.name == name and each.labels.items() >= labels.items()
    )


def test_every_declared_metric_appears(
    module_stack: Stack, module_environment: dict[str, str]
) -> None:
    """After use, each metric has its type, its documentation and its labels."""
    stack = module_stack
    stack.put([row("p")])
    wait_until(lambda: stack.read("p"), what="the reading")
    stack.read("unknown")
    stack.read("p", "/seconds/10")
    with psycopg.connect(module_environment["IOT_POSTGRES_URL"], autocommit=True) as connection:
        connection.execute("UPDATE segments SET payload = ''")
        assert (
            stack.request("POST", "/api/iot", '{"data": {"db_password": "p"}}', JSON).status == 500
        )
        connection.execute("DELETE FROM segments")
    wait_until(lambda: {each.family for each in OURS} <= scrape(stack).keys(), what="all metrics")
    families = scrape(stack)
    for each in OURS:
        family = families[each.family]
        assert (family.type, family.documentation) == (each.kind, each.meaning)
        labels = set(family.samples[0].labels) - {"le"}
        assert labels == set(each.labels), each.name
        for begin in each.initial_labels:
            assert any(begin in sample.labels.values() for sample in family.samples), each.name
    writer_s = {each.family for each in METRICS} - {each.family for each in OURS}
    assert not writer_s & families.keys()


def test_counters_are_summed_over_processes(module_stack: Stack) -> None:
    """The counts of a stopped and of a killed process stay in the sum."""
    stack = module_stack
    first, second = stack.workers()
    before = value(stack, "iot_readings_acknowledged_total")
    requests = value(stack, "iot_http_requests_total", method="PUT", status="201")
    for stopped, count in ((first, 3), (second, 4)):
        os.kill(stopped, signal.SIGSTOP)
        try:
            for _ in range(count):
                assert stack.put([row("sums"), row("sums")]).status == 201
        finally:
            os.kill(stopped, signal.SIGCONT)

    def counted() -> tuple[float, float]:
        return (
            value(stack, "iot_readings_acknowledged_total") - before,
            value(stack, "iot_http_requests_total", method="PUT", status="201") - requests,
        )

    wait_until(lambda: counted() == (14, 7), what="the counts of both processes")
    assert counted() == (14, 7)

    os.kill(first, signal.SIGKILL)
    wait_until(lambda: len(stack.workers() - {first}) == 2, what="another process")
    assert counted() == (14, 7)
    wait_until(lambda: stack.put([row("sums")]).status == 201)


def test_a_file_that_a_process_has_just_created_is_skipped(module_stack: Stack) -> None:
    """The file is empty, for ever if the process was killed at that point."""
    assert module_stack.api is not None
    (folder,) = module_stack.api.program.log.parent.glob("iot-api-metrics-*")
    created = folder / "counter_1.db"
    created.touch()
    try:
        assert "iot_http_requests" in scrape(module_stack)
    finally:
        created.unlink()


def test_a_process_that_shuts_down_loses_no_counts(module_stack: Stack) -> None:
    stack = module_stack
    wait_until(lambda: len(stack.workers()) == 2, what="two processes")
    other, ending = stack.workers()
    names = ("iot_readings_acknowledged_total", "iot_http_requests_total")
    wait_until(lambda: stack.put([row("ends")]).status == 201)

    def counted() -> list[float]:
        return [value(stack, names[0]), value(stack, names[1], method="PUT")]

    def settled() -> bool:
        first = counted()
        time.sleep(SETTLED_SECONDS)
        return first == counted() and first[0] > 0

    wait_until(settled, what="no new counts")
    before = counted()
    os.kill(other, signal.SIGSTOP)
    try:
        for _ in range(3):
            assert stack.put([row("ends")]).status == 201
        os.kill(ending, signal.SIGTERM)
        wait_until(lambda: ending not in stack.workers(), what="the end of the process")
    finally:
        os.kill(other, signal.SIGCONT)
    assert counted() == [each + 3 for each in before]


def test_requests_are_counted_by_route(module_stack: Stack) -> None:
    """Paths and methods that clients invent create no time series."""
    stack = module_stack

    def counted() -> tuple[float, ...]:
        return (
            value(stack, "iot_http_requests_total", route="/api/iot/<start>/<end>", method="POST"),
            value(stack, "iot_http_requests_total", route="none", method="any", status="404"),
            value(stack, "iot_http_requests_total", route="none", method="any", status="405"),
        )

    before = counted()
    for number in range(3):
        stack.request("POST", f"/api/iot/{number}/9", '{"data": {}}', JSON)
        stack.request("GET", f"/made/up/{number}")
        stack.request("GET", f"/api/iot/{number}")
    wait_until(lambda: counted() == tuple(each + 3 for each in before), what="the counts")
    text = stack.request("GET", "/metrics", port=stack.metrics_port).body
    assert b"made/up" not in text


def test_backlog_metrics_without_a_writer(module_stack: Stack) -> None:
    stack = module_stack
    (writer,) = stack.writers
    wait_until(lambda: value(stack, "iot_backlog_entries") == 0, what="an empty backlog")
    assert value(stack, "iot_backlog_bytes") == 0
    assert value(stack, "iot_backlog_oldest_seconds") == 0
    assert value(stack, "iot_backlog_up") == 1
    assert value(stack, "iot_backlog_limit_bytes") == 512 * 2**20
    os.kill(writer.pid, signal.SIGSTOP)
    try:
        for _ in range(5):
            stack.put([row("waits")] * 10)
        entries = scrape(stack)["iot_backlog_entries"].samples
        assert len(entries) == 8
        # One vault, so one shard.
        assert sorted(each.value for each in entries) == [0] * 7 + [5]
        assert value(stack, "iot_backlog_bytes") > 5 * 100
        age = value(stack, "iot_backlog_oldest_seconds")
        assert 0 <= age < 10
        wait_until(lambda: value(stack, "iot_backlog_oldest_seconds") > age, what="a higher age")
        assert value(stack, "iot_dead_letters") == 0
    finally:
        os.kill(writer.pid, signal.SIGCONT)
    wait_until(lambda: value(stack, "iot_backlog_entries") == 0, what="an empty backlog")
    assert value(stack, "iot_backlog_bytes") == 0


@pytest.mark.parametrize("path", ["/metrics", "/metrics/"])
def test_the_api_port_serves_no_metrics(module_stack: Stack, path: str) -> None:
    answer = module_stack.request("GET", path)
    assert (answer.status, answer.json()["code"]) == (404, "not_found")


def test_health_and_readiness_of_the_processes(module_stack: Stack) -> None:
    for _ in range(5):
        assert module_stack.request("GET", "/healthz").json() == {"status": "ok"}
        ready = {"status": "ready", "redis": "ok", "postgres": "ok"}
        assert module_stack.request("GET", "/readyz").json() == ready


def test_requests_in_flight(module_stack: Stack) -> None:
    """A request counts from its head until its answer is sent."""
    stack = module_stack
    head = b"PUT /api/iot HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\n\r\n"
    wait_until(lambda: value(stack, "iot_http_requests_in_flight") == 0, what="no request")
    with socket.create_connection(("127.0.0.1", stack.port)) as client:
        wait_until(lambda: value(stack, "iot_http_connections") == 1, what="a connection")
        client.sendall(head)
        wait_until(lambda: value(stack, "iot_http_requests_in_flight") == 1, what="a request")
        client.sendall(b'{"data": {}}')
        wait_until(lambda: value(stack, "iot_http_requests_in_flight") == 0, what="its end")


def test_puts_are_counted_by_size_and_by_refusal(api: Api) -> None:
    def counted() -> list[float]:
        codes = "invalid_request", "unsupported_media_type", "unavailable"
        return [
            *map(sample, ("iot_put_body_bytes_sum", "iot_put_readings_sum")),
            *(sample("iot_puts_rejected_total", reason=code) for code in codes),
        ]

    before = counted()
    assert api.put([row(), row()]).status_code == 201
    assert api.put([row(), {}]).status_code == 400
    assert api.ask("PUT", "/api/iot", "<x/>", {"Content-Type": "text/xml"}).status_code == 415
    added = [now - earlier for now, earlier in zip(counted(), before, strict=True)]
    assert added == [len(json.dumps([row(), row()])) + len(json.dumps([row(), {}])), 2, 1, 1, 0]


def test_uses_of_open_vaults_are_hits(api: Api) -> None:
    names = "iot_vault_cache_hits_total", "iot_vault_cache_misses_total", "iot_scrypts_running"
    before = [sample(name) for name in names]
    api.put(row("a new one"))
    assert [sample(name) for name in names] == [before[0], before[1] + 1, 0]
    api.put(row("a new one"))
    api.read(password="a new one")
    assert [sample(name) for name in names] == [before[0] + 2, before[1] + 1, 0]


def test_top_shows_the_status_of_all_processes(
    module_stack: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    stack = module_stack
    top = ["top", "--url", stack.url, "--once"]

    def status() -> dict[str, Any]:
        assert main([*top, "--json"]) == 0
        shown: dict[str, Any] = json.loads(capsys.readouterr().out)
        return shown

    wait_until(lambda: len(status()["api_processes"]) == 2, what="the heartbeats of both workers")
    wait_until(lambda: status()["writers"], what="the heartbeat of the writer")
    pids = {int(each["name"].rpartition(":")[2]) for each in status()["api_processes"]}
    assert pids == stack.workers()
    assert main(top) == 0
    text = capsys.readouterr().out
    assert re.search(rf":{stack.writers[0].pid} +writer ", text)
    assert "\x1b" not in text


def test_top_refreshes_a_terminal(module_stack: Stack) -> None:
    """It takes the whole screen, and gives it back after Ctrl-C."""
    url = module_stack.url
    ours, its = pty.openpty()
    command = [sys.executable, "-m", "iot_tools", "top", "--url", url, "--every", "0.1"]
    with subprocess.Popen(command, stdin=its, stdout=its, stderr=its) as process:
        os.close(its)
        seen = b""
        while seen.count(b"stored last for shards") < 3:
            seen += os.read(ours, 2**16)
        process.send_signal(signal.SIGINT)
        with suppress(OSError):  # the end of a terminal is an error
            while more := os.read(ours, 2**16):
                seen += more
        os.close(ours)
        assert process.wait(20) == 130
    assert seen.startswith(b"\x1b[?1049h")  # the alternate screen
    assert b"\x1b[?1049l" in seen
    assert seen.rstrip().endswith(b"stopped")
