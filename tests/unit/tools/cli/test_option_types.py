"""Types of options: which texts they refuse."""

import argparse

import pytest

from iot_tools.cli.option_types import service_url


@pytest.mark.parametrize("path", ["", "/", "/berlin", "/api/iot-sensor", "/berlin/api/iots"])
def test_a_service_may_be_below_a_path(path: str) -> None:
    assert service_url(f"https://example.org{path}") == f"https://example.org{path}"


@pytest.mark.parametrize("call", ["/api/iot", "/api/iot/", "/api/rssi/last/1", "/api/iot?limit=1"])
def test_the_url_of_a_call_is_refused(call: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="leave out /api/"):
        service_url(f"https://example.org{call}")
