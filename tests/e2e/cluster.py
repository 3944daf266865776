"""The cluster of a kube context: namespaces, pods, and waiting for what becomes of them."""

import os
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import urllib3
from kubernetes import client, config
from kubernetes.config.config_exception import ConfigException

from e2e import patience
from e2e.bodies import namespace_body

T = TypeVar("T")
_TRANSIENT = {429, 500, 502, 503, 504}


class NoClusterError(Exception):
    """There is none to be tested on; the message says why."""


class _Client(client.ApiClient):  # type: ignore[misc] # it ships no types
    """Waits for no answer for ever."""

    def request(self, *arguments: Any, **named: Any) -> Any:
        named["_request_timeout"] = named.get("_request_timeout") or patience.REQUEST
        return super().request(*arguments, **named)


class Cluster:
    """What tests ask of the API server."""

    def __init__(self, context: str | None = None) -> None:
        """Raises `NoClusterError` when the context leads to none within a few seconds."""
        settings = client.Configuration()
        try:
            config.load_kube_config(
                os.environ.get("KUBECONFIG") or None, context, client_configuration=settings
            )
        except ConfigException as error:
            raise NoClusterError(f"no cluster is at hand: {error}") from None
        self._check(settings)
        # Reading again does no harm: urllib3 repeats no POST and no PATCH that was sent.
        settings.retries = urllib3.Retry(
            total=5, backoff_factor=0.5, status_forcelist=[500, 502, 503, 504]
        )
        self.host = settings.host
        self.api = _Client(settings)
        self.core = client.CoreV1Api(self.api)
        self.apps = client.AppsV1Api(self.api)
        self.batch = client.BatchV1Api(self.api)
        self.networking = client.NetworkingV1Api(self.api)
        self.namespaces: list[str] = []
        """Those made here that are still there."""

    def close(self) -> None:
        """Close the connections."""
        self.api.rest_client.pool_manager.clear()
        self.api.close()

    def make_namespace(self) -> str:
        """A fresh one that admits restricted pods alone."""
        name = f"iot-e2e-{secrets.token_hex(3)}"
        self.core.create_namespace(namespace_body(name))
        self.namespaces.append(name)
        # Pods are refused until it has its service account.
        self.wait(
            lambda: self.core.read_namespaced_service_account("default", name),
            patience.POD_START,
            f"the service account of {name}",
        )
        return name

    def delete_namespace(self, name: str) -> None:
        """Delete it with all that is in it; returns when it is gone."""
        self.core.delete_namespace(name)
        self.wait(lambda: name not in self._names(), patience.GONE, f"the end of {name}")
        self.namespaces.remove(name)

    def wait(self, condition: Callable[[], T], seconds: float, what: str) -> T:
        """The first true value; an answer that there is none now counts as false.

        Raises:
            AssertionError: there was none in time.
        """
        end = time.monotonic() + seconds
        while True:
            try:
                value: Any = condition()
            except client.ApiException as error:
                if error.status not in _TRANSIENT | {404}:
                    raise
                value = f"{error.status} {error.reason}"
            except urllib3.exceptions.HTTPError as error:
                value = repr(error)
            else:
                if value:
                    found: T = value
                    return found
            if time.monotonic() > end:
                raise AssertionError(f"{what}: not within {seconds:g} s (last: {value!r:.500})")
            time.sleep(patience.POLL)

    def start_pod(self, namespace: str, body: Mapping[str, Any]) -> str:
        """Make a pod; its name, once its container runs or has ended."""
        name: str = self.core.create_namespaced_pod(namespace, body).metadata.name
        self.wait(
            lambda: self._state(namespace, name) is not None,
            patience.POD_START,
            f"the start of {name}",
        )
        return name

    def end_of_pod(self, namespace: str, name: str, seconds: float) -> tuple[int, str]:
        """Exit code and log of a pod's container, once it has ended."""
        ended: Any = self.wait(
            lambda: getattr(self._state(namespace, name), "terminated", None),
            seconds,
            f"the end of {name}",
        )
        return int(ended.exit_code), self.log(namespace, name)

    def log(self, namespace: str, name: str, **options: Any) -> str:
        """The log of a pod."""
        # As bytes: the client would parse a log that is one JSON document.
        answer = self.core.read_namespaced_pod_log(
            name, namespace, _preload_content=False, **options
        )
        text: str = answer.data.decode(errors="replace")
        return text

    def _state(self, namespace: str, name: str) -> Any:
        """What a pod's only container does, if it has begun."""
        pod = self.core.read_namespaced_pod(name, namespace)
        for each in pod.status.container_statuses or []:
            if each.state.running or each.state.terminated:
                return each.state
        assert pod.status.phase != "Failed", f"{name}: {pod.status.reason} {pod.status.message}"
        return None

    def _names(self) -> set[str]:
        return {each.metadata.name for each in self.core.list_namespace().items}

    @staticmethod
    def _check(settings: Any) -> None:
        settings.retries = False
        asked = client.ApiClient(settings)
        try:
            client.VersionApi(asked).get_code(_request_timeout=patience.REACHABLE)
        except (client.ApiException, urllib3.exceptions.HTTPError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise NoClusterError(
                f"the cluster at {settings.host} does not answer within {patience.REACHABLE} s: "
                f"{reason}"
            ) from None
        finally:
            asked.rest_client.pool_manager.clear()
            asked.close()
