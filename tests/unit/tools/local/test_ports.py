"""Free ports and ports in use are distinguished."""

import socket

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
