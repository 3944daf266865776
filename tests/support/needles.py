"""Searches for secrets in everything that a service writes, in all usual encodings."""

import base64
import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import zstandard

_MAGIC = zstandard.FRAME_HEADER
_FRAME = 2**20


def encodings(secret: bytes) -> dict[str, bytes]:
    """Return the encodings of a secret, by name."""
    forms = {
        "raw": secret,
        "hex": secret.hex().encode(),
        "HEX": secret.hex().upper().encode(),
        "repr": repr(secret)[2:-1].encode(),
        "json": "".join(f"\\u{each:04x}" for each in secret).encode(),
    }
    for shift in range(3):  # base64 of bytes with the secret at any position
        encoded = base64.b64encode(b"\0" * shift + secret)
        forms[f"base64+{shift}"] = encoded[4 if shift else 0 : -4]
        urlsafe = encoded.translate(bytes.maketrans(b"+/", b"-_"))
        forms[f"base64url+{shift}"] = urlsafe[4 if shift else 0 : -4]
    return forms


def needles(secrets: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return all encodings of the secrets, each under the name `<name> <encoding>`."""
    return {
        f"{name} {form}": needle
        for name, secret in secrets.items()
        for form, needle in encodings(secret).items()
    }


def found(contents: Iterable[bytes], sought: Mapping[str, bytes]) -> set[str]:
    """Return the names of the needles in the contents, or in compressed data within them."""
    names = set[str]()
    for content in contents:
        for each in (content, *_unpacked(content)):
            names |= {name for name, needle in sought.items() if needle in each}
    return names


def _unpacked(content: bytes) -> Iterator[bytes]:
    """Yield the decompressed data in `content`, which may be in hex."""
    packed = [content[each.start() :][:_FRAME] for each in re.finditer(re.escape(_MAGIC), content)]
    in_hex = re.finditer(_MAGIC.hex().encode() + rb"(?:[0-9a-f]{2})*", content)
    packed += [bytes.fromhex(each[0].decode()) for each in in_hex]
    for each in packed:
        with contextlib.suppress(zstandard.ZstdError):
            yield zstandard.ZstdDecompressor().decompressobj().decompress(each)


def contents(paths: Iterable[Path]) -> Iterator[bytes]:
    """Yield the contents of files. A file that is gone meanwhile is left out."""
    for path in paths:
        with contextlib.suppress(OSError):
            yield path.read_bytes()


def files(directory: Path, *, but: str = "?") -> list[Path]:
    """Return all files below a directory, except for those with the suffix `but`."""
    return [path for path in directory.rglob("*") if path.is_file() and path.suffix != but]


def process_files() -> list[Path]:
    """Return the files that show command lines and environments of all processes."""
    return [
        path for name in ("cmdline", "environ") for path in Path("/proc").glob(f"[0-9]*/{name}")
    ]
