"""A load generator that costs little: prepared requests over connections that stay open."""

import json
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, islice

EPOCH_US = 1_795_414_643_286_560


def reading(number: int, password: str) -> dict[str, object]:
    """What an RFID interrogator sends of one sighting of a tag; no two are the same."""
    moment = EPOCH_US + number * 1_003
    return {
        "data": {
            "db_password": password,
            "freeform": {
                "rssi": -40 - number * 7 % 45,
                "epc96": f"{number * 2_654_435_761 % 50:024x}",
                "doppler": number * 31 % 17 - 8,
                "phase": number * 40_503 % 4096,
                "antenna": 1 + number % 4,
                "rospecid": 0,
                "channelindex": number * 13 % 50,
                "tagseencount": 1,
                "accessspecid": 0,
                "inventoryparameterspecid": 0,
                "lastseentimestamp": moment,
                "antennastate": -1,
            },
            "relative_time": number * 1_003,
            "interrogator_time": moment,
        }
    }


def put_requests(batches: int, size: int, password: str) -> list[bytes]:
    """Whole HTTP requests, each a PUT of `size` readings."""
    numbers = count()
    requests = []
    for _ in range(batches):
        rows = [reading(number, password) for number in islice(numbers, size)]
        body = json.dumps(rows).encode()
        requests.append(
            b"PUT /api/iot HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
    return requests


@dataclass(frozen=True, slots=True)
class Sent:
    """How a load went."""

    requests: int
    seconds: float


def send(port: int, lanes: Sequence[Sequence[bytes]]) -> Sent:
    """Send each lane's requests one after the other on a connection of its own, all lanes at once.

    Raises `RuntimeError` for any answer that is not 201.
    """
    failures: list[str] = []
    threads = [threading.Thread(target=_lane, args=(port, lane, failures)) for lane in lanes]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    if failures:
        raise RuntimeError(failures[0])
    return Sent(sum(map(len, lanes)), seconds)


def _lane(port: int, requests: Sequence[bytes], failures: list[str]) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for request in requests:
            connection.sendall(request)
            answer = _answer(connection)
            if not answer.startswith(b"HTTP/1.1 201"):
                failures.append(answer[:500].decode(errors="replace"))
                return


def _answer(connection: socket.socket) -> bytes:
    answer = b""
    while not answer.endswith(b"}\n") and (piece := connection.recv(65_536)):
        answer += piece
    return answer
