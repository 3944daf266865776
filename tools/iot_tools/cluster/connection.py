"""The connection to the Kubernetes API server: by a pod's service account or the kube config."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kubernetes import client, config
from kubernetes.config.config_exception import ConfigException
from kubernetes.config.incluster_config import SERVICE_HOST_ENV_NAME, InClusterConfigLoader

from iot_models.errors import SettingsError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where Kubernetes mounts a pod's token, the certificate of the cluster and the namespace."""


@dataclass(frozen=True)
class Connection:
    """A client of the API server, and the namespace to use."""

    core: client.CoreV1Api
    host: str
    namespace: str


def connect(namespace: str | None, *, environ: Mapping[str, str] = os.environ) -> Connection:
    """Return a connection. No request is sent yet.

    Raises:
        SettingsError: neither a service account nor a kube config is found, or no namespace is set.
    """
    settings = client.Configuration()
    settings.retries = False  # SecretObjects retries, because it knows which errors are temporary
    if SERVICE_HOST_ENV_NAME in environ and (SERVICE_ACCOUNT / "token").is_file():
        default = _from_pod(settings, environ)
    else:
        default = _from_kube_config(settings, environ)
    namespace = namespace or default
    if not namespace:
        raise SettingsError("no namespace: pass --namespace, because the kube config sets none")
    return Connection(client.CoreV1Api(client.ApiClient(settings)), settings.host, namespace)


def _from_pod(settings: client.Configuration, environ: Mapping[str, str]) -> str | None:
    settings.proxy = None  # the API server is in the cluster: ignore HTTPS_PROXY
    loader = InClusterConfigLoader(
        token_filename=str(SERVICE_ACCOUNT / "token"),
        cert_filename=str(SERVICE_ACCOUNT / "ca.crt"),
        environ=environ,
    )
    try:
        loader.load_and_set(settings)
        return (SERVICE_ACCOUNT / "namespace").read_text(encoding="utf-8").strip() or None
    except ConfigException as error:
        raise SettingsError(
            f"the pod's service account in {SERVICE_ACCOUNT} can't be used: {error}"
        ) from None
    except FileNotFoundError:
        return None


def _from_kube_config(settings: client.Configuration, environ: Mapping[str, str]) -> str | None:
    file = environ.get("KUBECONFIG") or None
    try:
        config.load_kube_config(file, client_configuration=settings)
        _, active = config.list_kube_config_contexts(file)
    except ConfigException as error:
        if SERVICE_HOST_ENV_NAME in environ:
            raise SettingsError(
                "the pod has no service account token: set automountServiceAccountToken: true"
            ) from None
        raise SettingsError(f"no cluster is configured: {error}") from None
    found: str | None = active["context"].get("namespace")
    return found
