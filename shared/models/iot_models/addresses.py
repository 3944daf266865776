"""Addresses that a server listens on."""

import re

from .errors import SettingsError

_ADDRESS = re.compile(r"(?:tcp://)?(?P<host>\[[0-9a-fA-F:.%\w]+\]|[^\[\]:/\s]*):(?P<port>[^:\s]*)")
_OTHER = re.compile(r"unix:.+|fd://\d+")


def parse_bind(text: str) -> tuple[str, int] | None:
    """Host (without brackets) and port of the first address; None for a Unix socket.

    gunicorn takes a list, by commas, and would listen at port 8000 where none is given.

    Raises:
        SettingsError: one of them is no address with a port.
    """
    found = [_parse(each.strip()) for each in text.split(",")]
    return found[0]


def _parse(address: str) -> tuple[str, int] | None:
    if _OTHER.fullmatch(address):
        return None
    found = _ADDRESS.fullmatch(address)
    if found is None:
        if re.fullmatch("[0-9a-fA-F.]*:[0-9a-fA-F.]*:[0-9a-fA-F:.]*", address):
            raise SettingsError(f"{address}: an IPv6 address stands in brackets: [::]:5000")
        raise SettingsError(f"{address!r} is not an address and a port, such as 0.0.0.0:5000")
    port = found["port"]
    if not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 2**16):
        raise SettingsError(f"{address}: the port is not a number from 1 to 65535")
    host = found["host"].strip("[]")
    try:
        host.encode("idna")  # as the resolver does
    except UnicodeError:
        raise SettingsError(f"{address}: {host!r} is not the name of a host") from None
    return host, int(port)


def parse_metrics_address(text: str) -> str:
    """An address without a port.

    Raises:
        SettingsError: it has a port, or brackets.
    """
    if "[" in text:
        raise SettingsError(f"{text}: here an IPv6 address stands without brackets: ::")
    if text.count(":") == 1:
        raise SettingsError(f"{text} has a port, which is a setting of its own")
    return text
