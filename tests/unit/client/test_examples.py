"""The consumer for drivers of the old program."""

import importlib.util
import json
import queue
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from support.waiting import wait_until
from unit.client.conftest import CLOSE, Server

EXAMPLE = Path(__file__).parents[3] / "clients/python/examples/old_driver.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("old_driver", EXAMPLE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_old_driver_keeps_its_readings_while_the_service_is_away(
    server: Server, tmp_path: Path
) -> None:
    class Driver:
        """What the consumer uses of an old driver."""

        db_host = server.url
        db_password = "secret"
        cert_path = "NONE"
        exiting = False
        outbox_path = str(tmp_path / "outbox")

        def __init__(self) -> None:
            self.tag_dicts_queue: queue.Queue[dict[str, Any]] = queue.Queue()

        def insert_tag(self, number: int) -> None:
            data = {"db_password": "secret", "freeform": {"rssi": -61}}
            times = {"relative_time": number, "interrogator_time": number}
            self.tag_dicts_queue.put({"data": data | times})

        def communication_consumer(self) -> None:
            """Replaced."""

    class SafeDriver(load().OutboxConsumer, Driver):  # type: ignore[misc]
        outbox_path = Driver.outbox_path

    server.answers = [(CLOSE, {}), (503, {})]
    driver = SafeDriver()
    consumer = threading.Thread(target=driver.communication_consumer)
    consumer.start()
    driver.insert_tag(1)
    wait_until(lambda: len(server.received) > 1, what="an attempt after a connection error")
    for number in range(2, 6):
        driver.insert_tag(number)
    driver.exiting = True
    consumer.join(20)
    assert not consumer.is_alive()
    rows = [json.loads(each.body) for each in server.received[2:]]
    assert [row["data"]["relative_time"] for each in rows for row in each] == [1, 2, 3, 4, 5]
    assert {row["data"]["db_password"] for each in rows for row in each} == {"secret"}


def test_a_driver_without_a_sender_thread_is_refused() -> None:
    class Driver:
        def communication_consumer(self) -> None:
            """Send readings."""

    consumer = load().OutboxConsumer
    for bases in ((consumer, threading.Thread), (Driver, consumer)):
        with pytest.raises(TypeError, match="no class after OutboxConsumer has a method"):
            type("Safe", bases, {})
    site = type("Site", (consumer,), {"outbox_path": "/var/readings.outbox"})
    type("Safe", (site, Driver), {})
    with pytest.raises(TypeError, match="no class after OutboxConsumer has a method"):
        type("Safe", (site, threading.Thread), {})
