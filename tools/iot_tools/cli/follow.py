"""`iot-sensor follow`: print readings while they are stored."""

import argparse
import json
import logging
import sys

from iot_models.errors import IotError
from iot_sensor_client import ClientError

from .password_option import add_password, password_of
from .service_option import add_service, service_client

_IN_ONE_LINE = {ord("\n"): " ", ord("\r"): " "}
"""Replaces the line ends in a JSON text by spaces. JSON has line ends only between tokens, where a
space means the same."""


def add_follow(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `follow`."""
    add_service(parser)
    add_password(parser)
    parser.add_argument(
        "--freeform", action="store_true", help="print only what the devices sent as freeform"
    )
    parser.set_defaults(command=_follow)


def _follow(parsed: argparse.Namespace) -> int:
    _log_to_stderr()
    with service_client(parsed, password_of(parsed)) as client:
        try:
            for reading in client.follow():
                text = reading["freeform"] if parsed.freeform else json.dumps(reading)
                print(text.translate(_IN_ONE_LINE), flush=True)
        except ClientError as error:
            raise IotError(f"{parsed.url}: {error.reason}") from None
    return 0


def _log_to_stderr() -> None:
    """Print the warnings of the client on stderr, because stdout has the readings."""
    logger = logging.getLogger("iot_sensor_client")
    logger.addHandler(logging.StreamHandler(sys.stderr))
    logger.propagate = False
