"""The views that replay and drop dead letters."""

from flask import Blueprint, Response

from iot_api.http.access import needs
from iot_api.http.request import refuse_parameters, requesting_client
from iot_api.http.responses import json_response
from iot_api.service import Service
from iot_models.scopes import Scope
from iot_stores.dead_letter_orders import LetterAction

_DONE = {LetterAction.REPLAY: "replayed", LetterAction.DROP: "dropped"}


def dead_letters_blueprint(service: Service) -> Blueprint:
    """Return the blueprint of the views under `/api/dead-letters`."""
    blueprint = Blueprint("dead_letters", __name__)

    def answer(letter: str, action: LetterAction) -> Response:
        client = requesting_client(service.settings)
        if service.letter_actions.run(letter, action, client):
            return json_response({"id": letter, "state": _DONE[action]})
        return json_response({"id": letter, "state": "ordered"}, 202)

    @blueprint.post("/<letter>/replay")
    @needs(Scope.ADMIN)
    def replay(letter: str) -> Response:
        return answer(letter, LetterAction.REPLAY)

    @blueprint.delete("/<letter>")
    @needs(Scope.ADMIN)
    def drop(letter: str) -> Response:
        refuse_parameters()
        return answer(letter, LetterAction.DROP)

    return blueprint
