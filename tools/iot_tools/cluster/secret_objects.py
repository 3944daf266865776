"""Reads and writes Secrets of one namespace at the Kubernetes API server."""

import base64
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from iot_models.errors import IotError

from .connection import Connection

_log = logging.getLogger(__name__)

_TIMEOUTS = (5, 10)
"""Timeouts of connecting and of the response, in seconds."""
_FIRST_PAUSE, _MAX_PAUSE = 0.5, 8.0

T = TypeVar("T")


class ClusterError(IotError):
    """The API server refused or did not answer a request, or a Secret in the cluster is invalid."""


@dataclass(frozen=True)
class SecretObject:
    """A Secret, as read from the API server."""

    name: str
    content: Mapping[str, str] = field(repr=False)
    raw: Any = field(repr=False, default=None)


class SecretObjects:
    """The Secrets of a namespace.

    A request is retried if it gets no response, or the status 401, 429 or 5xx. All methods raise
    `ClusterError` when the retries fail, or when the server refuses the request.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        patience: float,
        report: Callable[[str], None] = _log.warning,
    ) -> None:
        self.namespace = connection.namespace
        self._core = connection.core
        self._host = connection.host
        self._patience = patience
        self._report = report

    def read(self, name: str) -> SecretObject | None:
        """Return the Secret with this name. Return None if it does not exist."""
        send = partial(self._core.read_namespaced_secret, name, self.namespace)
        try:
            raw = self._retry("get", name, send)
        except ApiException:
            return None
        return SecretObject(name, {key: _text(each) for key, each in (raw.data or {}).items()}, raw)

    def create(
        self,
        name: str,
        content: Mapping[str, str],
        *,
        labels: Mapping[str, str],
        annotations: Mapping[str, str],
    ) -> bool:
        """Create a Secret. If a Secret of this name exists, leave it unchanged and return False."""
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "labels": dict(labels), "annotations": dict(annotations)},
            "type": "Opaque",
            "data": _encoded(content),
        }
        send = partial(self._core.create_namespaced_secret, self.namespace, body)
        try:
            self._retry("create", name, send)
        except ApiException as error:
            if error.status == 404:
                raise ClusterError(f"namespace {self.namespace} does not exist") from None
            return False
        return True

    def change(self, secret: SecretObject, keys: Mapping[str, str]) -> bool:
        """Set keys of a Secret to new values. Its other keys stay unchanged.

        Return False if the Secret was changed or deleted after `secret` was read. The caller must
        then read the Secret again. The Secret may already have the new values: if the response to a
        successful request is lost, the retry conflicts with the change of that request.
        """
        secret.raw.data = {**(secret.raw.data or {}), **_encoded(keys)}
        name = secret.name
        send = partial(self._core.replace_namespaced_secret, name, self.namespace, secret.raw)
        try:
            self._retry("update", name, send)
        except ApiException:
            return False
        return True

    def _retry(self, verb: str, name: str, send: Callable[..., T]) -> T:
        """Send a request, with retries, and return its result.

        Raises:
            ApiException: the status is 404 or 409, which the caller handles.
            ClusterError: the request failed in another way.
        """
        until = time.monotonic() + self._patience
        pause = _FIRST_PAUSE
        while True:
            try:
                return send(_request_timeout=_TIMEOUTS)
            except ApiException as error:
                if error.status in {404, 409}:
                    raise
                failure = self._temporary_failure(verb, name, error)
            except HTTPError as error:
                failure = f"can't be reached: {' '.join(str(error).split())}"
            if time.monotonic() + pause > until:
                raise ClusterError(
                    f"the API server {self._host} {failure} ({verb} of Secret {name}; "
                    f"tried for {self._patience:g} s)"
                )
            self._report(f"the API server {self._host} {failure}; trying again")
            time.sleep(pause)
            pause = min(2 * pause, _MAX_PAUSE)

    def _temporary_failure(self, verb: str, name: str, error: ApiException) -> str:
        """Describe an error that a retry may cure. Raises `ClusterError` for any other error."""
        if error.status == 0:  # a TLS error
            return f"can't be reached: {' '.join(str(error.reason).split())}"
        message = _message(error)
        if error.status == 401:
            return f"doesn't accept the token of the service account (401 {message})"
        if error.status == 429 or error.status >= 500:
            return f"answers {error.status} {message}"
        where = f"Secret {name} in namespace {self.namespace}"
        if error.status == 403 and f"cannot {verb} resource" in message:
            raise ClusterError(
                f"not allowed to {verb} {where}: grant the verb {verb!r} on the resource 'secrets' "
                f"in a Role{_ROLE_HINT[verb]} ({message})"
            )
        raise ClusterError(f"{verb} of {where} was refused: {error.status} {message}")


_ROLE_HINT = {
    "get": ", with this name among its resourceNames",
    "create": ", without resourceNames, which do not apply to create",
    "update": ", with this name among its resourceNames",
}


def _message(error: ApiException) -> str:
    """Return the `message` in the JSON of the response, else the text of its status line."""
    try:
        message = json.loads(error.body)["message"]
    except (ValueError, KeyError, TypeError):
        message = error.reason
    return " ".join(str(message).split())[:400]


def _encoded(content: Mapping[str, str]) -> dict[str, str]:
    return {key: base64.b64encode(text.encode()).decode() for key, text in content.items()}


def _text(encoded: str | None) -> str:
    # A value that is not UTF-8 is invalid, and the parser of the value refuses it.
    return base64.b64decode(encoded or "").decode(errors="replace")
