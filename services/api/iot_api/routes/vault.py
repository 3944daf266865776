"""The views under `/api/vault`: change the password of a vault, erase a vault."""

from flask import Blueprint, Response, request

from iot_api.http.access import needs
from iot_api.http.request import PasswordsForm, refuse_parameters, requesting_client
from iot_api.http.responses import json_response
from iot_api.service import Service
from iot_models.scopes import Scope

_PASSWORDS = PasswordsForm("db_password", "new_password", required=True)
_PASSWORD = PasswordsForm("db_password", required=True)


def vault_blueprint(service: Service) -> Blueprint:
    """Return the blueprint of `POST /api/vault/password` and `DELETE /api/vault`."""
    blueprint = Blueprint("vault", __name__)

    @blueprint.post("/password")
    @needs(Scope.ADMIN)
    def change_password() -> Response:
        old, new = _PASSWORDS.receive(request.environ, service.settings)
        service.password_changer.change(old, new, requesting_client(service.settings))
        return json_response({"changed": True})

    @blueprint.delete("")
    @needs(Scope.ADMIN)
    def erase() -> Response:
        refuse_parameters()
        (password,) = _PASSWORD.receive(request.environ, service.settings)
        service.vault_eraser.erase(password, requesting_client(service.settings))
        return json_response({"erased": True})

    return blueprint
