"""The log of defects: the class and the frames of an error, and no content of the request."""

import logging
import traceback


def log_defect(log: logging.Logger, event: str, error: BaseException) -> None:
    """Log the class of an error and where it was raised.

    The message is left out: str() of a KeyError or a UnicodeDecodeError quotes the request.
    """
    log.error("%s: %s", event, _name(error), extra={"traceback": _described(error)})


def _name(error: BaseException) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}"


def _described(error: BaseException) -> str:
    parts = []
    seen: BaseException | None = error
    while seen is not None:
        frames = "".join(traceback.format_tb(seen.__traceback__))
        parts.append(f"{_name(seen)}\n{frames}")
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return "caused by ".join(parts).rstrip()
