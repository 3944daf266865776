"""The JSON form of log events."""

import json
from typing import Any

from pythonjsonlogger.msgspec import MsgspecFormatter

_FIELDS = ("levelname", "name", "process", "message")
_NAMES = {"levelname": "level", "name": "logger", "exc_info": "traceback"}


class JsonFormatter(MsgspecFormatter):
    """Formats each log event as one line of JSON, with the time in UTC."""

    def __init__(self) -> None:
        super().__init__(_FIELDS, rename_fields=_NAMES, timestamp="time")

    def jsonify_log_record(self, log_data: dict[str, Any]) -> str:
        try:
            return super().jsonify_log_record(log_data)
        except UnicodeEncodeError:  # a lone surrogate, for example of a file name
            return json.dumps(log_data, default=str)
