"""The ports in a URL of Redis or Postgres: network policies must allow connections to them."""

import re

_URL = re.compile(r"(?P<scheme>[a-z+]+)://(?P<hosts>[^/?#]*)[^?#]*(?:\?(?P<query>[^#]*))?")
_CONNINFO_PORT = re.compile(r"\bport\s*=\s*'?([\d,]+)")
"""The port in a libpq connection string, `host=... port=...`."""
_DEFAULTS = {
    "redis": "6379",
    "rediss": "6379",
    "redis+sentinel": "26379",
    "rediss+sentinel": "26379",
    "postgres": "5432",
    "postgresql": "5432",
}


def ports_value(url: str) -> str:
    """Return the name of the chart value that lists the ports of the Redis or Postgres at `url`."""
    return f"networkPolicy.{'redis' if url.startswith('redis') else 'postgres'}.ports"


def closed_ports(url: str, opened: frozenset[int]) -> list[int]:
    """Return the ports of a URL that are not in `opened`; [] for an invalid URL.

    If the URL names Redis Sentinels, only their ports are checked: the URL does not contain the
    port of the Redis master.
    """
    ports = _ports(url.strip("\ufeff\r\n\t "))
    return sorted({int(port) for port in ports.split(",") if port.isdecimal()} - opened)


def _ports(url: str) -> str:
    found = _URL.fullmatch(url)
    if found is None:
        conninfo = _CONNINFO_PORT.search(url)
        return conninfo[1] if conninfo else ""
    if found["scheme"] not in _DEFAULTS:
        return ""
    query = dict(re.findall(r"(\w+)=([^&]*)", found["query"] or ""))
    if "port" in query:
        return str(query["port"])
    hosts = found["hosts"].rpartition("@")[2] or query.get("host", "")
    default = _DEFAULTS[found["scheme"]]
    return ",".join(_port(host) or default for host in hosts.split(",") if not _is_local(host))


def _port(host: str) -> str:
    """Return the port of `name`, `name:port` or `[address]:port`; "" without a port."""
    found = re.fullmatch(r"(?:\[[^\]]*\]|[^:]*)(?::([^:]*))?", host)
    return (found and found[1]) or ""


def _is_local(host: str) -> bool:
    """Return whether a host needs no port: it is empty, or the folder of a Unix socket."""
    return host.startswith(("/", "%2F", "%2f")) or not host
