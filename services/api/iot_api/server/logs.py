"""The log of gunicorn's master and of its workers: the same format as all other logs."""

import logging
from typing import Any

import gevent
from gunicorn.glogging import Logger

from iot_models import logs

_OUR_LOGGERS = ("iot_api", "iot_cipher", "iot_models", "iot_stores")


def libraries_level(level: str) -> str:
    """Return the log level for libraries: never DEBUG, at which they log parts of requests."""
    return "INFO" if level == "DEBUG" else level


def gunicorn_log(form: str, level: str) -> type[Logger]:
    """Return gunicorn's `logger_class`, which sets up all loggers of gunicorn's processes."""

    class Log(Logger):  # type: ignore[misc] # gunicorn has no types
        def setup(self, cfg: Any) -> None:
            super().setup(cfg)
            for each in self.error_log.handlers:
                each.setFormatter(logs.formatter(form))
            root = logging.getLogger()
            root.handlers = self.error_log.handlers
            root.setLevel(libraries_level(level))
            for name in _OUR_LOGGERS:
                logging.getLogger(name).setLevel(level)

    if form == logs.JSON:
        logs.log_uncaught()
    return Log


def log_uncaught_in_greenlets() -> None:
    """Make gevent log the uncaught errors of greenlets, instead of printing them."""

    def print_exception(context: object, kind: Any, error: Any, traceback: Any) -> None:
        del context, kind, traceback
        logging.getLogger("gevent").error("uncaught error in a greenlet", exc_info=error)

    gevent.get_hub().print_exception = print_exception
