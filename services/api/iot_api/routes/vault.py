"""The views of vaults themselves, under `/api/vault`."""

from flask import Blueprint, Response

from iot_api.http.access import needs
from iot_api.http.responses import json_response
from iot_api.service import Service
from iot_models.scopes import Scope

from .credentials import PasswordsForm, requesting_client

_PASSWORDS = PasswordsForm("db_password", "new_password", required=True)
_PASSWORD = PasswordsForm("db_password", required=True)


def vault_blueprint(service: Service) -> Blueprint:
    """Return the blueprint of `POST /api/vault/password` and `DELETE /api/vault`."""
    blueprint = Blueprint("vault", __name__)

    @blueprint.post("/password")
    @needs(Scope.ADMIN)
    def change_password() -> Response:
        old, new = _PASSWORDS.receive(service)
        service.password_changer.change(old, new, requesting_client(service))
        return json_response({"changed": True})

    @blueprint.delete("")
    @needs(Scope.ADMIN)
    def erase() -> Response:
        (password,) = _PASSWORD.receive(service)
        service.vault_eraser.erase(password, requesting_client(service))
        return json_response({"erased": True})

    return blueprint
