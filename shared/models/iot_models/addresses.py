"""Listen addresses of servers."""

import re

from .errors import SettingsError

_ADDRESS = re.compile(r"(?:tcp://)?(?P<host>\[[0-9a-fA-F:.%\w]+\]|[^\[\]:/\s]*):(?P<port>[^:\s]*)")
_UNIX_SOCKET_OR_FD = re.compile(r"unix:.+|fd://\d+")


def parse_bind(text: str) -> tuple[str, int] | None:
    """Check addresses separated by commas. Return the host and the port of the first address.

    An IPv6 host is returned without brackets. If the first address is a Unix socket or a file
    descriptor, return None. Every TCP address must have a port: without a port, gunicorn would
    listen on port 8000.

    Raises:
        SettingsError: an address is invalid.
    """
    addresses = [_parse(address.strip()) for address in text.split(",")]
    return addresses[0]


def _parse(address: str) -> tuple[str, int] | None:
    if _UNIX_SOCKET_OR_FD.fullmatch(address):
        return None
    found = _ADDRESS.fullmatch(address)
    if found is None:
        if re.fullmatch("[0-9a-fA-F.]*:[0-9a-fA-F.]*:[0-9a-fA-F:.]*", address):
            raise SettingsError(f"{address}: write an IPv6 address in brackets: [::]:5000")
        raise SettingsError(f"{address!r} is not an address and a port, such as 0.0.0.0:5000")
    port = found["port"]
    if not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 2**16):
        raise SettingsError(f"{address}: the port is not a number from 1 to 65535")
    host = found["host"].strip("[]")
    if not is_host(host):
        raise SettingsError(f"{address}: {host!r} is not a valid host name")
    return host, int(port)


def is_host(text: str) -> bool:
    """Return whether `text` can be a host name or an address for Python's resolver."""
    try:
        text.encode("idna")  # as the resolver does
    except UnicodeError:
        return False
    return True


def parse_metrics_address(text: str) -> str:
    """Check that an address has no port, which is a setting of its own. Return the address.

    Raises:
        SettingsError: the address has a port, an IPv6 address is in brackets, or a host name is
            invalid.
    """
    if "[" in text:
        raise SettingsError(f"{text}: write an IPv6 address without brackets, for example ::1")
    if text.count(":") == 1:
        raise SettingsError(
            f"{text} has a port: set the port in IOT_API_METRICS_PORT or IOT_WRITER_METRICS_PORT"
        )
    if not is_host(text):
        raise SettingsError(f"{text!r} is not a valid host name")
    return text
