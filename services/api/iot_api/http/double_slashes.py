"""Paths with a slash too many, from clients that join a base URL and a path."""

import re
from collections.abc import Iterable
from typing import Any

from .cors import StartResponse, Wsgi

_SLASHES = re.compile("/{2,}")


def merge_slashes(app: Wsgi) -> Wsgi:
    """The app, with several slashes in a path read as one.

    Werkzeug drops those at the start; the others it would answer with a redirect, which clients do
    not follow for a PUT.
    """

    def merged(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if "//" in path:
            environ["PATH_INFO"] = _SLASHES.sub("/", path)
        return app(environ, start_response)

    return merged
