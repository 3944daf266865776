"""The files of the live page, compressed once and kept in memory."""

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import zstandard

PAGE = "page.html"
UPLOT_SHA256 = {
    "uplot.iife.min.js": "2d27e8ad3d228164525ce213f9dc716f39b4e3aee0cc773fb3491c96cf4921a2",
    "uplot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}
"""SHA-256 of the files of uPlot 1.6.31 as its authors published them on npm (docs/adr/0028)."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
"""The Content-Security-Policy of the page. With it, the browser loads files from this service only,
and connects to no other service. It runs no inline script, applies no inline style, and never turns
text into a script or markup."""
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True)
class PageFile:
    """A file of the page."""

    media_type: str
    etag: str
    bodies: Mapping[str | None, bytes]
    """The content, keyed by content coding, such as `gzip`. None is the key of the uncompressed
    content."""


@cache
def page_files() -> Mapping[str, PageFile]:
    """Return all files of the page, keyed by name.

    Raises:
        ValueError: uPlot is not installed, or its files do not have the hashes `UPLOT_SHA256`.
    """
    static = files(__package__).joinpath("static")
    contents = {each.name: each.read_bytes() for each in static.iterdir()} | _uplot()
    return {
        name: _page_file(name, body)
        for name, body in contents.items()
        if Path(name).suffix in _TYPES
    }


def _uplot() -> dict[str, bytes]:
    """Return the files of uPlot, keyed by name, from the installed Python package `youplot`.

    The package is not imported, so none of its code runs.
    """
    spec = find_spec("youplot")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError("the Python package youplot, which contains uPlot, is not installed")
    vendor = Path(spec.submodule_search_locations[0]) / "vendor"
    contents = {name: (vendor / name).read_bytes() for name in UPLOT_SHA256}
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != UPLOT_SHA256[name]:
            raise ValueError(
                f"{vendor / name} is not the published file of uPlot: its SHA-256 differs; install "
                "the dependencies again"
            )
    return contents


def _page_file(name: str, content: bytes) -> PageFile:
    bodies = {
        None: content,
        "gzip": gzip.compress(content, 9, mtime=0),
        "zstd": zstandard.ZstdCompressor(level=19).compress(content),
    }
    etag = hashlib.sha256(content).hexdigest()[:32]
    return PageFile(_TYPES[Path(name).suffix], etag, bodies)
