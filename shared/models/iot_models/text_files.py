"""Small text files that people write: URLs, tokens, passwords, keyrings."""

from pathlib import Path

BYTE_ORDER_MARK = "\ufeff"


def read_text(path: Path) -> str:
    """Read UTF-8 text, without the byte order mark that editors on Windows put first.

    Raises:
        OSError: the file can't be read.
        UnicodeDecodeError: it is not UTF-8.
    """
    return path.read_text(encoding="utf-8-sig")


def read_line(path: Path) -> str:
    """Read the one line of a file, without spaces and line breaks around it; empty for none.

    Raises:
        OSError, UnicodeDecodeError: as `read_text`.
        ValueError: the file has more than one line.
    """
    text = read_text(path).strip()
    if len(text.splitlines()) > 1:
        raise ValueError("more than one line")
    return text
