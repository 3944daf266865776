"""The views of vaults themselves, under `/api/vault`."""

import msgspec
from flask import Blueprint, Response

from iot_api.http.access import needs
from iot_api.http.responses import json_response
from iot_api.ingest.json_dialect import decode
from iot_api.ingest.parser import password_bytes
from iot_api.service import Service
from iot_models.errors import InvalidRequestError
from iot_models.scopes import Scope

from .credentials import receive_credentials, requesting_client


class _Passwords(msgspec.Struct):
    db_password: str
    new_password: str

    def __repr__(self) -> str:
        return "<_Passwords>"  # a traceback must not show a password


class _ChangeRequest(msgspec.Struct):
    data: _Passwords


class _RawPasswords(msgspec.Struct):
    db_password: msgspec.Raw
    new_password: msgspec.Raw

    def __repr__(self) -> str:
        return "<_RawPasswords>"


class _RawChangeRequest(msgspec.Struct):
    data: _RawPasswords


_change_request = msgspec.json.Decoder(_ChangeRequest)
_raw_change_request = msgspec.json.Decoder(_RawChangeRequest)


def vault_blueprint(service: Service) -> Blueprint:
    """Return the blueprint of `POST /api/vault/password`."""
    blueprint = Blueprint("vault", __name__)

    @blueprint.post("/password")
    @needs(Scope.ADMIN)
    def change_password() -> Response:
        old, new = _passwords(service)
        service.password_changer.change(old, new, requesting_client(service))
        return json_response({"changed": True})

    return blueprint


def _passwords(service: Service) -> tuple[bytes, bytes]:
    body = receive_credentials(service, passwords=2)
    try:
        decoded = decode(_change_request.decode, body)
    except (msgspec.DecodeError, RecursionError, ValueError):
        raise InvalidRequestError(
            'the body must have the form {"data": {"db_password": "...", "new_password": "..."}}',
            field="data",
        ) from None
    given = decoded.content.data
    old, new = given.db_password, given.new_password
    if decoded.stand_ins:
        raw = _raw_change_request.decode(decoded.strict).data
        old, new = decoded.stand_ins.strings([bytes(raw.db_password), bytes(raw.new_password)])
    limit = service.settings.max_password_bytes
    return password_bytes(old, limit), password_bytes(new, limit, field="new_password")
