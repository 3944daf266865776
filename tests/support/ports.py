"""Ports for servers that listen at more than one."""

from iot_tools.local.ports import free_port, is_free

_BUS = 10_000
"""The bus of a node of a Redis Cluster listens this far above the node's port."""
_FIRST_OF_CLIENTS = 32_768
"""Linux takes the ports of outgoing connections from here on."""


def port_of_a_node() -> int:
    """A port for a node of a Redis Cluster: its bus needs a free port, too."""
    while True:
        port = free_port()
        if port + _BUS < _FIRST_OF_CLIENTS and is_free(port + _BUS):
            return port
