"""Client of the iot-sensor HTTP API.

`Client` sends readings and reads them back. `Outbox` keeps readings on the disk until the service
has them. The package needs the standard library only.
"""

from .asynchronous import AsyncClient
from .client import Client
from .errors import (
    ClientError,
    NoResponseError,
    OutboxError,
    OutboxFullError,
    OutboxInUseError,
    RejectedError,
    RetryableError,
    TrustError,
)
from .outbox import Outbox, OutboxStatistics
from .outbox_rejected import RejectedReading
from .readings import Readings
from .response import Response
from .retry import RetryPolicy

__all__ = [
    "AsyncClient",
    "Client",
    "ClientError",
    "NoResponseError",
    "Outbox",
    "OutboxError",
    "OutboxFullError",
    "OutboxInUseError",
    "OutboxStatistics",
    "Readings",
    "RejectedError",
    "RejectedReading",
    "Response",
    "RetryPolicy",
    "RetryableError",
    "TrustError",
]
