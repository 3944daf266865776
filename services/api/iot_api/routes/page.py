"""The views of the live page."""

from http import HTTPStatus

from flask import Blueprint, Response, request
from werkzeug.exceptions import NotFound, PreconditionFailed

from iot_api.http.access import needs_no_token
from iot_api.http.content_encoding import VARY_CODING, accepted_coding
from iot_api.page.files import PAGE, POLICY, PageFile, page_files


def page_blueprint() -> Blueprint:
    """Return the blueprint of `/`, the page, and of `/assets/`, the files that it loads."""
    blueprint = Blueprint("page", __name__)

    @blueprint.get("/")
    @needs_no_token
    def page() -> Response:
        response = _respond(page_files()[PAGE])
        response.headers["Content-Security-Policy"] = POLICY
        return response

    @blueprint.get("/assets/<name>")
    @needs_no_token
    def asset(name: str) -> Response:
        file = page_files().get(name)
        if file is None or name == PAGE:
            raise NotFound
        return _respond(file)

    return blueprint


def _respond(file: PageFile) -> Response:
    """Return the file, or 304 if the browser has this version.

    The browser asks each time it opens the page, so that it never runs files of two versions.

    Raises:
        PreconditionFailed: the request has an `If-Match` or `If-Unmodified-Since` that fails.
    """
    coding = accepted_coding(request.environ.get("HTTP_ACCEPT_ENCODING", ""))
    response = Response(file.bodies[coding], content_type=file.media_type)
    response.headers["Vary"] = VARY_CODING
    response.headers["Cache-Control"] = "no-cache"
    if coding is not None:
        response.headers["Content-Encoding"] = coding
    response.set_etag(file.etag, weak=True)  # of the content, whatever its coding
    response.make_conditional(request.environ)
    if response.status_code == HTTPStatus.PRECONDITION_FAILED:
        raise PreconditionFailed  # its response has an error as the body, not the file
    return response
