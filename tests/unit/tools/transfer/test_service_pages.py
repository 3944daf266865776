"""The sizes of the pages that an import or export requests."""

import json
from http.client import HTTPMessage
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qs, urlsplit

from iot_sensor_client import Client, Response
from iot_tools.transfer.service_pages import ServicePages

SIZE = 2**20


class Vault(Client):
    """Stands for a service that has readings with these sizes of `freeform`."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__("http://127.0.0.1:1")
        self.sizes = sizes
        self.counts: list[int] = []

    def request(self, *arguments: Any, **_: Any) -> Response:
        query = parse_qs(urlsplit(arguments[1]).query)
        begin, limit = int(query.get("cursor", ["0"])[0]), int(query["limit"][0])
        end = min(begin + limit, len(self.sizes))
        self.counts.append(end - begin)
        rows = [
            {"absolute_timestamp": "2026-11-28 07:00:00", "freeform": "x" * size, "id": number,
             "relative_timestamp": 0, "interrogator_timestamp": number}
            for number, size in enumerate(self.sizes[begin:end], begin)
        ]  # fmt: skip
        cursor = str(end) if end < len(self.sizes) else None
        body = json.dumps({"data": rows, "cursor": cursor}).encode()
        return Response(200, HTTPMessage(), body)


def test_large_readings_come_in_small_pages_from_the_first() -> None:
    with Vault([SIZE] * 9) as client:
        pages = list(ServicePages(client, "p").pages())
    assert [reading.id for page in pages for reading in page.readings] == list(range(9))
    assert client.counts[0] == 1
    assert max(client.counts) <= 4


def test_pages_of_small_readings_grow_step_by_step() -> None:
    with Vault([1] * 20_000) as client:
        assert sum(len(page.readings) for page in ServicePages(client, "p").pages()) == 20_000
    assert max(client.counts) == 10_000
    assert all(after <= 8 * before for before, after in pairwise(client.counts))
