"""A reading is stored and read back."""

from flask.testing import FlaskClient

from iot_writer.writer import Writer
from support.draining import drain_all
from support.stack import Stack
from support.waiting import wait_until


def test_a_reading_is_returned_unchanged(client: FlaskClient, writer: Writer) -> None:
    row = {"db_password": "p", "relative_time": 1, "interrogator_time": 2, "freeform": {"a": 1.50}}
    answer = client.put("/api/iot", json={"data": row})
    assert answer.status_code == 201
    assert answer.data == b'{"success":"1 object(s) created"}\n'
    drain_all(writer)
    (reading,) = client.post("/api/iot", json={"data": {"db_password": "p"}}).get_json()["data"]
    assert reading["relative_timestamp"] == 1
    assert reading["interrogator_timestamp"] == 2
    assert reading["freeform"] == '{"a": 1.5}'


def test_the_processes_store_and_return_a_reading(stack: Stack) -> None:
    assert stack.put([{"data": {"db_password": "p", "freeform": "hello"}}]).status == 201
    rows = wait_until(lambda: stack.read("p"), what="the reading")
    assert [row["freeform"] for row in rows] == ['"hello"']
