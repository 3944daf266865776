"""Ports for servers that listen on more than one port."""

from iot_tools.local.ports import free_port, is_free

_BUS = 10_000
"""The bus of a node of a Redis Cluster listens this far above the node's port."""
_FIRST_OF_CLIENTS = 32_768
"""The first port that Linux uses for outgoing connections."""


def port_of_a_node() -> int:
    """Return a port for a node of a Redis Cluster, whose bus port is free, too."""
    while True:
        port = free_port()
        if port + _BUS < _FIRST_OF_CLIENTS and is_free(port + _BUS):
            return port
