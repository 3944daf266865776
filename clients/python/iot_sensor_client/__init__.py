"""Client of the iot-sensor HTTP API.

`Client` sends readings and reads them back. It needs the standard library only.
"""

from .client import Client
from .errors import ClientError, NoResponseError, RejectedError, RetryableError
from .response import Response
from .retry import RetryPolicy

__all__ = [
    "Client",
    "ClientError",
    "NoResponseError",
    "RejectedError",
    "Response",
    "RetryPolicy",
    "RetryableError",
]
