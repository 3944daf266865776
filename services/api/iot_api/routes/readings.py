"""Views that read readings: the API of the old server, under `/api/iot` and `/api/rssi`.

`iot_api.ingest.endpoint` answers the PUTs to these paths.
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol

from flask import Blueprint, Response, request

from iot_api.audit.reads import ReadRecord
from iot_api.http.access import needs
from iot_api.http.paths import forwarded_prefix
from iot_api.http.request import (
    PasswordsForm,
    prove,
    proven_vaults,
    refuse_parameters,
    requesting_client,
)
from iot_api.http.request_log import LOGGED, LoggedRead
from iot_api.http.responses import json_response
from iot_api.ingest.endpoint import not_yet_stored
from iot_api.ingest.receipts import decode_receipt, encode_receipt
from iot_api.limits.clients import Client
from iot_api.query.paging import encode_cursor, parse_paging
from iot_api.query.pausable_read import Page, PausableRead
from iot_api.query.responses import (
    ReadingsStream,
    empty_answer,
    readings_answer,
    requested_form,
)
from iot_api.query.time_range import parse_time_range
from iot_api.server.slow_send import PAUSE
from iot_api.service import Service
from iot_cipher.encryption import OpenVault
from iot_models.errors import InvalidRequestError
from iot_models.scopes import Scope
from iot_models.times import parse_time
from iot_stores.history import ReadFilter

_ALL = ReadFilter()
_PLAIN_DIGITS = 18
"""Maximum number of digits for which `_number` does not check the range: such a number always fits
in 64 bits."""
_PASSWORD = PasswordsForm("db_password", required=False)
_PASSWORD_TO_ERASE = PasswordsForm("db_password", required=True)


def iot_blueprint(service: Service) -> Blueprint:
    """Return the blueprint of the views under `/api/iot`."""
    views = _Views(service)
    rules: list[tuple[str, str, Callable[..., Response]]] = [
        ("PUT", "", views.put),  # for the header `Allow` only
        ("POST", "", views.read_all),
        ("GET", "/maxtime", views.maxtime),
        ("POST", "/maxtime", views.vault_maxtime),
        ("GET", "/stored/<receipt>", views.stored),
        ("POST", "/<start>", views.read_from),
        ("POST", "/<start>/<end>", views.read_between),
        ("DELETE", "/<start>/<end>", views.erase_between),
        ("POST", "/seconds/<count>", views.read_seconds),
        ("POST", "/last/<count>", views.read_last),
    ]
    blueprint = Blueprint("iot", __name__)
    for method, rule, view in rules:
        blueprint.add_url_rule(rule, view_func=view, methods=[method])
    return blueprint


class Choose(Protocol):
    """A method of `Readings` that selects readings of a vault."""

    def __call__(
        self, vault: OpenVault, *, within: ReadFilter, page: Page, client: Client
    ) -> PausableRead:
        """Return a read of one page of the selected readings that pass the filter `within`."""


class _Views:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._readings = service.readings

    @needs(Scope.INGEST)
    def put(self) -> Response:
        raise AssertionError("a PUT reached Flask: the ingest endpoint should have answered it")

    @needs(Scope.INGEST)
    def stored(self, receipt: str) -> Response:
        entries = decode_receipt(receipt)
        if self._service.receipts.stored(entries):
            return json_response({"stored": True})
        prefix = forwarded_prefix(request.environ, self._service.settings.trusted_proxies)
        return not_yet_stored({}, encode_receipt(entries), prefix).for_flask()

    @needs(Scope.READ)
    def read_all(self) -> Response:
        return self._read("all", self._readings.select)

    @needs(Scope.READ)
    def read_from(self, start: str) -> Response:
        low = _number("start", start)
        return self._read(f"from {low}", self._readings.select, ReadFilter(relative_low=low))

    @needs(Scope.READ)
    def read_between(self, start: str, end: str) -> Response:
        low, high = _number("start", start), _number("end", end)
        return self._read(f"between {low} {high}", self._readings.select, ReadFilter(low, high))

    @needs(Scope.ADMIN)
    def erase_between(self, start: str, end: str) -> Response:
        refuse_parameters()
        low, high = _number("start", start), _number("end", end)
        (password,) = _PASSWORD_TO_ERASE.receive(request.environ, self._service.settings)
        client = requesting_client(self._service.settings)
        erased = self._service.range_eraser.erase(password, low, high, client)
        return json_response({"erased": erased})

    @needs(Scope.READ)
    def read_seconds(self, count: str) -> Response:
        seconds = _count("seconds", count)
        choose = partial(self._readings.last_seconds, seconds=seconds)
        return self._read(f"seconds {seconds}", choose)

    @needs(Scope.READ)
    def read_last(self, count: str) -> Response:
        last = _count("last", count)
        return self._read(f"last {last}", partial(self._readings.latest, count=last))

    @needs(Scope.READ)
    def maxtime(self) -> Response:
        return _maxtime(self._readings.max_relative_timestamp())

    @needs(Scope.READ)
    def vault_maxtime(self) -> Response:
        vault = _requested_vault(self._service)
        if vault is None:
            return _maxtime(None)
        found = self._readings.max_relative_timestamp(vault)
        client = requesting_client(self._service.settings)
        record = record_of(self._service, vault, "maxtime", client)
        if record is not None:
            record.end(0)
        return _maxtime(found)

    def _read(self, name: str, choose: Choose, read_filter: ReadFilter = _ALL) -> Response:
        """Stream the readings that `choose` selects from the vault of the request's password.

        Cursors contain `name`, the name of the selection, so that a cursor of another selection is
        refused.
        """
        paging = None
        if request.args:
            paging = parse_paging(request.args)
            time_range = parse_time_range(request.args)
            read_filter, name = time_range.within(read_filter), name + time_range.name
        form = requested_form(request.environ)
        paged = paging is not None and paging.limit is not None
        vault = _requested_vault(self._service)
        if vault is None:
            if paging is not None:
                paging.refuse_cursor()
            return empty_answer(form, request.environ, paged=paged)
        cursor_context = name.encode() + vault.vault_id.bytes
        client = requesting_client(self._service.settings)
        page = Page() if paging is None else paging.page(cursor_context)
        read = choose(vault, within=read_filter, page=page, client=client)
        record = record_of(self._service, vault, name, client)
        stream = ReadingsStream(
            read,
            lambda cursor: encode_cursor(cursor, cursor_context),
            record,
            form=form,
            paged=paged,
        )
        request.environ[PAUSE] = stream.pause
        return readings_answer(stream, request.environ)


def _requested_vault(service: Service) -> OpenVault | None:
    """Like `find_vault`, for the password in the body of the request."""
    (password,) = _PASSWORD.receive(request.environ, service.settings)
    return find_vault(service, password)


def find_vault(service: Service, password: bytes) -> OpenVault | None:
    """Return the vault of a password. If no vault has the password, count a guess and return None.

    A password that found a vault earlier on this connection is exempt from the guess limit while
    the vault is open: the answer tells the client nothing new.
    """
    vault = _find_vault(service, password)
    if vault is not None:
        request.environ[LOGGED] = LoggedRead(vault.vault_id)
    return vault


def _find_vault(service: Service, password: bytes) -> OpenVault | None:
    proven = proven_vaults(request.environ, service.settings.trusted_proxies)
    if proven:
        vault = service.vaults.cache.readable(password, proven)
        if vault is not None:
            return vault
    vault = service.vaults.find(password, requesting_client(service.settings))
    if vault is not None and proven is not None:
        prove(proven, [service.vaults.cache.key(password)])
    return vault


def record_of(service: Service, vault: OpenVault, name: str, client: Client) -> ReadRecord | None:
    """Return the record of this read for the audit log; None if `IOT_AUDIT_READS` is 0."""
    if not service.settings.audit_reads:
        return None
    return ReadRecord(service.audit_events, vault.vault_id, name, client)


def _number(field: str, text: str) -> int:
    if len(text) <= _PLAIN_DIGITS and text.isascii() and text.isdigit():
        return int(text)
    try:
        return parse_time(text)
    except ValueError as error:
        raise InvalidRequestError(f"{field}: {error}", field=field) from None


def _count(field: str, text: str) -> int:
    count = _number(field, text)
    if count < 0:
        raise InvalidRequestError(f"{field}: must not be negative", field=field)
    return count


def _maxtime(found: int | None) -> Response:
    return json_response({"data": [{"max_relative_timestamp": found}]})
