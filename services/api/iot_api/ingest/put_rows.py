"""The rows of a PUT body, as msgspec decodes them."""

import msgspec

from iot_api.http.request import Redacted
from iot_models.reading import MISSING_TIME

Time = int | float | str


class Data(Redacted, gc=False):
    """The member `data` of a row."""

    db_password: str = ""
    relative_time: Time = MISSING_TIME
    interrogator_time: Time = MISSING_TIME
    freeform: msgspec.Raw = msgspec.Raw(b'""')


class Row(Redacted, gc=False):
    """One item of the body: `{"data": {...}}`."""

    data: Data


class Written(Redacted, gc=False):
    """The member `data` of a row, without `freeform`. The fields stay JSON text."""

    db_password: msgspec.Raw = msgspec.Raw(b'""')
    relative_time: msgspec.Raw = msgspec.Raw(b"-1")
    interrogator_time: msgspec.Raw = msgspec.Raw(b"-1")
    absolute_timestamp: msgspec.Raw = msgspec.Raw(b"null")


class WrittenRow(Redacted, gc=False):
    """A row whose fields stay JSON text."""

    data: Written
