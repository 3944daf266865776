"""The connection to the Kubernetes API server: by a pod's service account or the kube config.

Importing this module raises `IotError` if the package `kubernetes`, an extra, is not installed.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from iot_models.errors import IotError, SettingsError

try:
    from kubernetes import client, config
    from kubernetes.config.config_exception import ConfigException
    from kubernetes.config.incluster_config import SERVICE_HOST_ENV_NAME, InClusterConfigLoader
except ImportError:
    raise IotError(
        "commands for Secrets need the package kubernetes: pip install 'kubernetes<36'"
    ) from None

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

    A kube config that KUBECONFIG names is used even in a pod, as kubectl and helm do.

    Raises:
        SettingsError: neither a service account nor a kube config is found, the one found can't be
            used, or no namespace is set.
    """
    settings = client.Configuration()
    settings.retries = False  # SecretObjects retries, because it knows which errors are temporary
    in_pod = SERVICE_HOST_ENV_NAME in environ and not _named_kube_config_exists(environ)
    if in_pod and (SERVICE_ACCOUNT / "token").is_file():
        default = _from_pod(settings, environ)
    else:
        default = _from_kube_config(settings, environ, in_pod=in_pod)
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


def _named_kube_config_exists(environ: Mapping[str, str]) -> bool:
    """Return whether KUBECONFIG, a list of paths, names an existing file."""
    paths = environ.get("KUBECONFIG", "").split(os.pathsep)
    # The methods of `Path` raise if a folder can't be searched, or if there is no such user.
    return any(os.path.exists(os.path.expanduser(path)) for path in paths)  # noqa: PTH110, PTH111


def _from_kube_config(
    settings: client.Configuration, environ: Mapping[str, str], *, in_pod: bool
) -> str | None:
    file = environ.get("KUBECONFIG") or None
    try:
        config.load_kube_config(file, client_configuration=settings)
        _, active = config.list_kube_config_contexts(file)
        found: str | None = active["context"].get("namespace")
    except ConfigException as error:
        if in_pod:
            raise SettingsError(
                "the pod has no service account token: set automountServiceAccountToken: true"
            ) from None
        raise SettingsError(f"no cluster is configured: {error}") from None
    except OSError as error:
        raise SettingsError(f"no cluster is configured: {error}") from None
    except Exception as error:  # noqa: BLE001 -- the package checks few values of the file
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise SettingsError(
            f"no cluster is configured: the kube config is damaged ({reason})"
        ) from None
    return found
