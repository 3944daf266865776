"""A real Prometheus that scrapes processes of this machine."""

import json
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml

from iot_tools.local.ports import free_port
from support.waiting import wait_until

RELEASE = {"namespace": "default", "app_kubernetes_io_instance": "test"}
"""Labels by which the alerts of the release `test` select."""


def program(name: str) -> str:
    """Return the path of `prometheus` or `promtool`. Skip the test where it is not installed."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed here (Debian has it in `prometheus`)")
    return found


class PrometheusServer:
    """A Prometheus that scrapes each second, and evaluates rules each second."""

    def __init__(self, folder: Path, ports: Mapping[str, int], rules: Path | None) -> None:
        """`ports`: the ports of /metrics, by the component that serves them."""
        self._port = free_port()
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [] if rules is None else [str(rules)],
            "scrape_configs": [
                {
                    "job_name": component,
                    "static_configs": [
                        {
                            "targets": [f"127.0.0.1:{port}"],
                            "labels": {**RELEASE, "pod": f"{component}-1"},
                        }
                    ],
                }
                for component, port in ports.items()
            ],
        }
        file = folder / "prometheus.yml"
        file.write_text(yaml.safe_dump(config), encoding="utf-8")
        command = [
            program("prometheus"),
            f"--config.file={file}",
            f"--storage.tsdb.path={folder / 'prometheus'}",
            "--enable-feature=exemplar-storage",
            f"--web.listen-address=127.0.0.1:{self._port}",
        ]
        with (folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_until(self._is_ready, what="Prometheus")

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the samples that an expression selects."""
        return list(self._ask("query", query=expression)["result"])

    def value(self, expression: str) -> float | None:
        """Return the value of an expression with at most one sample."""
        found = self.query(expression)
        assert len(found) < 2, found
        return float(found[0]["value"][1]) if found else None

    def metadata(self, component: str) -> dict[str, tuple[str, str]]:
        """Return type and unit of each metric of a component."""
        found = self._ask("targets/metadata", match_target=f'{{job="{component}"}}')
        return {each["metric"]: (each["type"], each["unit"]) for each in found}

    def firing(self) -> dict[str, dict[str, Any]]:
        """Return the alerts that fire, by name."""
        alerts = self._ask("alerts")["alerts"]
        return {each["labels"]["alertname"]: each for each in alerts if each["state"] == "firing"}

    def traces(self, histogram: str) -> set[str]:
        """Return the trace ids in the exemplars of a histogram."""
        now = time.time()
        found = self._ask(
            "query_exemplars", query=f"{histogram}_bucket", start=f"{now - 600}", end=f"{now}"
        )
        return {each["labels"]["trace_id"] for series in found for each in series["exemplars"]}

    def stop(self) -> None:
        """Kill the server."""
        self._process.kill()
        self._process.wait()

    def _ask(self, path: str, **parameters: str) -> Any:
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urlencode(parameters)}"
        with urlopen(url, timeout=30) as answer:
            content = json.load(answer)
        assert content["status"] == "success", content
        return content["data"]

    def _is_ready(self) -> bool:
        assert self._process.poll() is None, "see prometheus.log"
        try:
            with urlopen(f"http://127.0.0.1:{self._port}/-/ready", timeout=5):
                return True
        except URLError:
            return False
