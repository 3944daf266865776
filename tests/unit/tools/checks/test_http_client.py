"""The client tells what may be tried again from what may not."""

from typing import Protocol

import pytest

from iot_tools.checks.http_client import ApiClient, NotDeliveredError, RefusedError
from iot_tools.local.ports import free_port


class Service(Protocol):
    """What the fixture gives."""

    url: str
    failures: list[tuple[int, dict[str, str]]]


@pytest.mark.parametrize("url", ["127.0.0.1:5000", "ftp://x", "http://", "nonsense"])
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(ValueError, match="not an http"):
        ApiClient(url, "")


def test_nobody_listens() -> None:
    client = ApiClient(f"http://127.0.0.1:{free_port()}", "")
    assert not client.ready()
    with pytest.raises(NotDeliveredError, match="ConnectionRefusedError"):
        client.put([], "key")


def test_a_refusal_is_final(service: Service) -> None:
    client = ApiClient(service.url, "")
    service.failures = [(413, {}), (503, {"Retry-After": "3"})]
    with pytest.raises(RefusedError, match="413"):
        client.put([], "key")
    with pytest.raises(NotDeliveredError, match="503") as caught:
        client.put([], "key")
    assert caught.value.retry_after == 3
    client.close()
