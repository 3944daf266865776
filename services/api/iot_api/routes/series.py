"""The view of `/api/iot/series`: fields of readings over time, for notebooks and dashboards."""

import time
from collections.abc import Mapping
from contextlib import closing
from functools import partial
from typing import Any

from flask import Blueprint, Response, request

from iot_api.http.access import needs
from iot_api.http.request import PasswordsForm, password_bytes, refuse_repeated, requesting_client
from iot_api.limits.memory_budget import OverBudgetError, charge_request
from iot_api.query.pausable_read import PausableRead
from iot_api.query.responses import ReadingsStream, accepted_type, answer, readings_answer
from iot_api.query.series_query import SeriesQuery, parse_series_query
from iot_api.query.series_rows import MEDIA_FORMS, ROW_FORMS, SeriesForm, window_pieces
from iot_api.query.series_windows import SeriesWindows, too_large
from iot_api.query.timed_rows import TimedRows, columns_of
from iot_api.query.unordered_read import SharedReadingError, UnorderedRead
from iot_api.server.slow_send import PAUSE
from iot_api.service import Service
from iot_cipher.encryption import OpenVault
from iot_models import metrics
from iot_models.errors import InvalidRequestError
from iot_models.scopes import Scope
from iot_stores.history import ReadFilter

from .readings import find_vault, record_of

_PASSWORD = PasswordsForm("db_password", required=False)
_HEADER = "X-Iot-Password"


def series_blueprint(service: Service) -> Blueprint:
    """Return the blueprint of `/api/iot/series`."""
    blueprint = Blueprint("series", __name__)

    @blueprint.route("/series", methods=["GET", "POST"])
    @needs(Scope.READ)
    def series() -> Response:
        return _series(service)

    return blueprint


def _series(service: Service) -> Response:
    query = parse_series_query(request.args)
    form_name = query.form or MEDIA_FORMS[accepted_type(request.environ)]
    form = ROW_FORMS[form_name](query.columns)
    vault = find_vault(service, _password(service))
    if vault is None:
        return answer(iter([form.end()]), form.media_type, request.environ)
    client = requesting_client(service.settings)
    read_filter = query.time_range.within(ReadFilter())
    record = record_of(service, vault, f"series{query.time_range.name}", client)
    if query.step is not None:
        windows = _windows(service, vault, read_filter, query, query.step)
        if record is not None:
            record.end(windows.readings)
        return answer(window_pieces(windows.rows(), form), form.media_type, request.environ)
    read = service.readings.select(vault, read_filter, client=client, rows=TimedRows)
    # With the environ: the rest of the answer is made after the request context has ended.
    charge = partial(_charge, request.environ, field="fields", remedy="fewer fields")
    stream = ReadingsStream(read, record=record, form=SeriesForm(query, form, charge))
    request.environ[PAUSE] = stream.pause
    return readings_answer(stream, request.environ)


def _charge(
    environ: Mapping[str, Any],
    count: int,
    *,
    field: str = "step",
    remedy: str = "a longer step, fewer fields or groups, or a shorter range",
) -> None:
    """Charge a WSGI request for `count` bytes of large texts or of time windows.

    Raises:
        InvalidRequestError: this request needs more memory than a process has. The error names
            `field` and `remedy`.
        UnavailableError: the memory of this process is used up.
    """
    try:
        charge_request(environ, count)
    except OverBudgetError:
        problem = "the answer needs more memory than this server has"
        raise too_large(problem, field, remedy) from None


def _windows(
    service: Service, vault: OpenVault, read_filter: ReadFilter, query: SeriesQuery, step: int
) -> SeriesWindows:
    readings, client = service.readings, requesting_client(service.settings)
    charge = partial(_charge, request.environ)
    try:
        combine = UnorderedRead(charge).combine
        unordered = readings.select(
            vault, read_filter, client=client, rows=TimedRows, combine=combine
        )
        windows = _filled(unordered, SeriesWindows(query, step, charge))
    except SharedReadingError:
        ordered = readings.select(vault, read_filter, client=client, rows=TimedRows)
        windows = _filled(ordered, SeriesWindows(query, step, charge))
    metrics.counter("iot_readings_read_total").inc(windows.readings)
    return windows


def _filled(read: PausableRead, windows: SeriesWindows) -> SeriesWindows:
    # References between the read and its batches form a cycle. So if a reading is refused, only
    # `closing` ends the turn immediately.
    with closing(iter(read)) as batches:
        for batch in batches:
            for columns in columns_of(batch):
                windows.add(columns)
                time.sleep(0)  # let other requests of the process run
            del batch  # free its memory before the next one is produced
    return windows


def _password(service: Service) -> bytes:
    """Return the password in the header `X-Iot-Password` or in the body of a POST; b"" if none."""
    refuse_repeated(request.environ, _HEADER)
    header = request.headers.get("X-Iot-Password")
    if header is None:
        if request.method != "POST":
            return b""
        (password,) = _PASSWORD.receive(request.environ, service.settings)
        return password
    try:
        # WSGI decodes the bytes of a header as Latin-1.
        text = header.encode("latin-1").decode()
    except UnicodeError:
        problem = "is not UTF-8; POST the password in the body"
        raise InvalidRequestError(f"{_HEADER} {problem}", field=_HEADER) from None
    return password_bytes(text, service.settings.max_password_bytes, field=_HEADER)
