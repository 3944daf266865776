"""`iot-sensor top`: the status of the service in the terminal."""

import argparse
import io
import json
import sys
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.live import Live

from iot_models.errors import IotError
from iot_sensor_client import Client, ClientError, NoResponseError, RetryPolicy
from iot_sensor_client.errors import FOREIGN, raise_for_status

from .option_types import interval
from .service_option import add_service, service_client
from .status_screen import screen

_TIMEOUT = 10.0
_PLAIN_WIDTH = 100
_FOREVER_REFUSED = frozenset({401, 403, 404})

Show = Callable[[dict[str, Any] | None, str], None]
"""Shows the newest status, or None if no status was received yet. The second argument says why the
last request failed; it is empty if the request succeeded."""


def add_top(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `top`."""
    add_service(parser)
    parser.add_argument(
        "--every",
        type=interval,
        default=2.0,
        metavar="SECONDS",
        help="time between two requests (default 2)",
    )
    parser.add_argument("--once", action="store_true", help="show the status once and exit")
    parser.add_argument(
        "--json", action="store_true", help="print the answer of the service, one object per line"
    )
    parser.set_defaults(command=_top)


def _top(parsed: argparse.Namespace) -> int:
    client = service_client(parsed, retry=RetryPolicy(max_attempts=1), timeout=_TIMEOUT)
    with client:
        console = Console(markup=False, highlight=False, emoji=False)
        if parsed.json:
            _watch(parsed, client, _print_json)
        elif parsed.once or not console.is_terminal:
            _watch(parsed, client, _printer(console, parsed.url))
        else:
            with Live(console=console, screen=True, auto_refresh=False) as live:
                _watch(
                    parsed,
                    client,
                    lambda status, problem: live.update(
                        screen(status, parsed.url, problem, height=console.height), refresh=True
                    ),
                )
    return 0


def _watch(parsed: argparse.Namespace, client: Client, show: Show) -> None:
    """Request and show the status every `--every` seconds, or only once with `--once`.

    If a request fails, show the reason, and continue with the next request.

    Raises:
        IotError: the service answered 401, 403 or 404; or, with `--once`, the request failed.
    """
    status: dict[str, Any] | None = None
    while True:
        problem = ""
        try:
            status = _ask(client)
        except ClientError as error:
            if parsed.once or error.status in _FOREVER_REFUSED:
                raise IotError(f"{parsed.url}: {error.reason}") from None
            problem = error.reason
        show(status, problem)
        if parsed.once:
            return
        time.sleep(parsed.every)


def _ask(client: Client) -> dict[str, Any]:
    response = client.request("GET", "/api/status")
    raise_for_status(response)
    try:
        status = response.json()
    except ValueError:
        status = None
    if not isinstance(status, dict) or "stores" not in status:
        raise NoResponseError(FOREIGN)
    return status


def _print_json(status: dict[str, Any] | None, problem: str) -> None:
    if problem:
        print(problem, file=sys.stderr, flush=True)
    else:
        print(json.dumps(status), flush=True)


def _printer(console: Console, url: str) -> Show:
    """Return a function that prints the status: in colour on a terminal, else as plain text."""

    def show(status: dict[str, Any] | None, problem: str) -> None:
        content = screen(status, url, problem)
        if console.is_terminal:
            console.print(content)
            return
        plain = Console(file=io.StringIO(), width=_PLAIN_WIDTH, markup=False, highlight=False)
        with plain.capture() as captured:
            plain.print(content)
        print(*(line.rstrip() for line in captured.get().splitlines()), sep="\n", flush=True)

    return show
