"""Secrets of one namespace, read and written at the API server."""

import base64
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from iot_models.errors import IotError

from .connection import Connection

_log = logging.getLogger(__name__)

PATIENCE = 60.0
_TIMEOUTS = (5, 10)
"""To connect, and to be answered, in seconds."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 8.0

T = TypeVar("T")


class ClusterError(IotError):
    """The cluster doesn't let us, or isn't as it must be; one sentence on what to do."""


@dataclass(frozen=True)
class SecretObject:
    """A Secret as it stood when it was read."""

    name: str
    content: Mapping[str, str] = field(repr=False)
    raw: Any = field(repr=False, default=None)


class SecretObjects:
    """An API server that doesn't answer, or answers 401, 429 or 5xx, is asked again for a while.

    All methods raise `ClusterError` when it stays so, or when the server refuses.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        patience: float = PATIENCE,
        tell: Callable[[str], None] = _log.warning,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.namespace = connection.namespace
        self._core = connection.core
        self._host = connection.host
        self._patience = patience
        self._tell = tell
        self._clock = clock
        self._sleep = sleep

    def read(self, name: str) -> SecretObject | None:
        """The Secret of that name; None when there is none."""
        ask = self._core.read_namespaced_secret
        try:
            raw = self._asked(
                "get", name, lambda: ask(name, self.namespace, _request_timeout=_TIMEOUTS)
            )
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
        """Make a Secret; False when there is one of that name, which stays as it is."""
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "labels": dict(labels), "annotations": dict(annotations)},
            "type": "Opaque",
            "data": _encoded(content),
        }
        ask = self._core.create_namespaced_secret
        try:
            self._asked(
                "create", name, lambda: ask(self.namespace, body, _request_timeout=_TIMEOUTS)
            )
        except ApiException as error:
            if error.status == 404:
                raise ClusterError(f"there is no namespace {self.namespace}") from None
            return False
        return True

    def change(self, read: SecretObject, keys: Mapping[str, str]) -> bool:
        """Set keys of a Secret and leave the others; False when it isn't as it was `read` now."""
        read.raw.data = {**(read.raw.data or {}), **_encoded(keys)}
        ask, name = self._core.replace_namespaced_secret, read.name
        try:
            self._asked(
                "update",
                name,
                lambda: ask(name, self.namespace, read.raw, _request_timeout=_TIMEOUTS),
            )
        except ApiException:
            return False
        return True

    def _asked(self, verb: str, name: str, ask: Callable[[], T]) -> T:
        """The answer. Raises the `ApiException` of a 404 or 409, which the caller understands."""
        until = self._clock() + self._patience
        pause = _FIRST_PAUSE
        while True:
            try:
                return ask()
            except ApiException as error:
                if error.status in {404, 409}:
                    raise
                trouble = self._passing_trouble(verb, name, error)
            except HTTPError as error:
                trouble = f"can't be reached: {' '.join(str(error).split())}"
            if self._clock() + pause > until:
                raise ClusterError(
                    f"the API server {self._host} {trouble} ({verb} of Secret {name}; "
                    f"tried for {self._patience:g} s)"
                )
            self._tell(f"the API server {self._host} {trouble}; trying again")
            self._sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _passing_trouble(self, verb: str, name: str, error: ApiException) -> str:
        """What may be over soon. Raises `ClusterError` for what a repetition can't mend."""
        if error.status == 0:  # TLS
            return f"can't be reached: {' '.join(str(error.reason).split())}"
        said = _said(error)
        if error.status == 401:
            return f"doesn't accept the token of the service account (401 {said})"
        if error.status == 429 or error.status >= 500:
            return f"answers {error.status} {said}"
        where = f"Secret {name} in namespace {self.namespace}"
        if error.status == 403 and f"cannot {verb} resource" in said:
            raise ClusterError(
                f"not allowed to {verb} {where}: grant the verb {verb!r} on the resource 'secrets' "
                f"in a Role{_ROLE_HINT[verb]} ({said})"
            )
        raise ClusterError(f"{verb} of {where} was refused: {error.status} {said}")


_ROLE_HINT = {
    "get": ", with this name among its resourceNames",
    "create": ", without resourceNames, which can't limit it",
    "update": ", with this name among its resourceNames",
}


def _said(error: ApiException) -> str:
    """The message of the API server's Status, else the reason of its status line."""
    try:
        message = json.loads(error.body)["message"]
    except (ValueError, KeyError, TypeError):
        message = error.reason
    return " ".join(str(message).split())[:400]


def _encoded(content: Mapping[str, str]) -> dict[str, str]:
    return {key: base64.b64encode(text.encode()).decode() for key, text in content.items()}


def _text(encoded: str | None) -> str:
    """Not UTF-8, it is none of ours, and fails where it is parsed."""
    return base64.b64decode(encoded or "").decode(errors="replace")
