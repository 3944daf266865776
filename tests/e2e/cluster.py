"""The cluster of a kube context: namespaces, pods, and waits."""

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
    """No cluster is available for the tests; the message says why."""


class _Client(client.ApiClient):  # type: ignore[misc] # the package has no types
    """An API client whose requests have a timeout."""

    def request(self, *arguments: Any, **named: Any) -> Any:
        named["_request_timeout"] = named.get("_request_timeout") or patience.REQUEST
        return super().request(*arguments, **named)


class Cluster:
    """The calls of the tests to the API server."""

    def __init__(self, context: str | None = None) -> None:
        """Connect to the cluster; raise `NoClusterError` if it does not answer in a few seconds."""
        settings = client.Configuration()
        try:
            config.load_kube_config(
                os.environ.get("KUBECONFIG") or None, context, client_configuration=settings
            )
        except ConfigException as error:
            raise NoClusterError(f"no cluster is at hand: {error}") from None
        self._check(settings)
        # urllib3 retries only idempotent requests, so no POST and no PATCH.
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
        """The namespaces that were made and not yet deleted."""

    def close(self) -> None:
        """Close the connections."""
        self.api.rest_client.pool_manager.clear()
        self.api.close()

    def make_namespace(self) -> str:
        """Make a namespace that admits only restricted pods, and return its name."""
        name = f"iot-e2e-{secrets.token_hex(3)}"
        self.core.create_namespace(namespace_body(name))
        self.namespaces.append(name)
        # Pods are refused until the namespace has a service account.
        self.wait(
            lambda: self.core.read_namespaced_service_account("default", name),
            patience.POD_START,
            f"the service account of {name}",
        )
        return name

    def delete_namespace(self, name: str) -> None:
        """Delete a namespace with all its objects, and wait until it is gone."""
        self.core.delete_namespace(name)
        self.wait(lambda: name not in self._names(), patience.GONE, f"the end of {name}")
        self.namespaces.remove(name)

    def wait(self, condition: Callable[[], T], seconds: float, what: str) -> T:
        """Return the first true value of the condition; 404 and transient errors count as false.

        Raises:
            AssertionError: the condition was not true in time.
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
        """Make a pod, and return its name when its container runs or has ended."""
        name: str = self.core.create_namespaced_pod(namespace, body).metadata.name
        self.wait(
            lambda: self._state(namespace, name) is not None,
            patience.POD_START,
            f"the start of {name}",
        )
        return name

    def end_of_pod(self, namespace: str, name: str, seconds: float) -> tuple[int, str]:
        """Wait until a pod's container ends, and return its exit code and log."""
        ended: Any = self.wait(
            lambda: getattr(self._state(namespace, name), "terminated", None),
            seconds,
            f"the end of {name}",
        )
        return int(ended.exit_code), self.log(namespace, name)

    def log(self, namespace: str, name: str, **options: Any) -> str:
        """Return the log of a pod."""
        # As bytes, because the client would parse a log that is a JSON document.
        answer = self.core.read_namespaced_pod_log(
            name, namespace, _preload_content=False, **options
        )
        text: str = answer.data.decode(errors="replace")
        return text

    def _state(self, namespace: str, name: str) -> Any:
        """Return the state of a pod's only container, or None before it starts."""
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
