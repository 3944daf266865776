"""Free ports and ports in use are distinguished."""

import socket
import subprocess
import sys

import pytest

from iot_tools.local import ports
from iot_tools.local.ports import free_port, is_free


def test_a_port_in_use_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not is_free(port)
        assert not is_free(port, "0.0.0.0")  # noqa: S104 -- as a server would
    assert is_free(port)


def test_a_free_port_is_below_the_ephemeral_ports() -> None:
    port = free_port()
    assert is_free(port)
    assert 1024 < port < 32768


def test_a_free_port_is_reserved_against_other_processes() -> None:
    """Otherwise, of two services with one port, the first answers requests to the second."""
    port = free_port()
    code = f"from iot_tools.local import ports; print(ports._reserve({port}))"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout == "None\n"
    with socket.create_server(("127.0.0.1", port)):
        pass  # a server can listen


def test_a_process_keeps_a_bounded_number_of_reservations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_RESERVATIONS", 3)
    last = [free_port() for _ in range(5)][-1]
    assert len(ports._reservations) == 3  # noqa: SLF001 - not visible otherwise
    with pytest.raises(OSError, match="in use"), socket.socket(type=socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", last))
