"""The phases of a connection, and how the server counts the connections that it closes."""

from enum import IntEnum

from iot_models import metrics


class Phase(IntEnum):
    """What a connection waits for, in the order in which connections are closed to make room."""

    LINGERING = 0
    """Waits for the client's FIN, after the last answer."""
    DELAYED = 1
    """Waits for the end of the delay of an error answer (`RefusalPace`)."""
    HEAD = 2
    """Waits for the rest of a request's head."""
    NEW = 3
    """New connection: waits for the TLS handshake, if any, and then for the first byte."""
    IDLE = 4
    """Waits for the next request."""
    BODY = 5
    """Waits for the rest of a request's body."""
    SENDING = 6
    """Waits until a slow client takes more of the answer."""
    ANSWERING = 7
    """Waits for the application. A connection in this phase is never closed to make room."""


class ClientGoneError(OSError):
    """The client is gone, or the server has given up its connection."""


def count_closed(reason: str) -> None:
    """Count a connection that the server closes. `reason` is a label of the metric."""
    metrics.counter("iot_connections_closed_total").labels(reason).inc()
