"""The phases of a connection, and how the server counts the connections that it closes."""

from enum import IntEnum

from iot_models import metrics


class Phase(IntEnum):
    """What a connection waits for, in the order in which connections are closed to make room."""

    LINGERING = 0
    """The client's FIN, after the last answer."""
    DELAYED = 1
    """The time at which an error is answered (`RefusalPace`)."""
    HEAD = 2
    """The rest of a request's head."""
    NEW = 3
    """The first byte, or the TLS handshake."""
    IDLE = 4
    """The next request."""
    BODY = 5
    """The rest of a body."""
    SENDING = 6
    """A client that reads too slowly."""
    ANSWERING = 7
    """The application. A connection in this phase is never closed to make room."""


class ClientGoneError(OSError):
    """The client is gone, or the server has given up its connection."""


def count_closed(reason: str) -> None:
    """Count a connection that the server closes. `reason` is a label of the metric."""
    metrics.counter("iot_connections_closed_total").labels(reason).inc()
