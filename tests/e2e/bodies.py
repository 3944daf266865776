"""The objects that the tests create in Kubernetes. The level `restricted` admits all pods."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e import patience

Body = dict[str, Any]
STOP = "iot-sensor-e2e/stop"
"""The annotation that stops a load."""
PORT = 8000
_INSIDE = (Path(__file__).parent / "inside.py").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Image:
    """The image of the writer, which has Python and the command `iot-sensor`."""

    reference: str
    pull_policy: str
    pull_secrets: tuple[str, ...] = ()


def namespace_body(name: str) -> Body:
    """Return a namespace that admits only restricted pods."""
    level = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    metadata = {"name": name, "labels": {"iot-sensor-e2e": "true", **level}}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}


def load_pod(image: Image, url: str, probe_secret: str, *, devices: int, rate: float) -> Body:
    """Return a pod that runs `iot-sensor soak` until the annotation `STOP` is set."""
    arguments = {
        "url": url,
        "token-file": "/etc/e2e/probe/token",
        "password-file": "/etc/e2e/probe/password",
        "devices": devices,
        "rate": rate,
        "seconds": patience.LOAD,
        "verify": patience.VERIFY,
        "until": "/etc/e2e/wishes/stop",
    }
    command = ["iot-sensor", "soak", *(f"--{name}={each}" for name, each in arguments.items())]
    field = {"fieldPath": f"metadata.annotations['{STOP}']"}
    wishes = {"items": [{"path": "stop", "fieldRef": field}]}
    return _pod(
        "load",
        image,
        command,
        volumes={
            "probe": {"secret": {"secretName": probe_secret, "defaultMode": 0o440}},
            "wishes": {"downwardAPI": wishes},
        },
        seconds=patience.LOAD + patience.LOAD_END,
    )


def asking_pod(image: Image, questions: Sequence[Mapping[str, Any]], tokens_secret: str) -> Body:
    """Return a pod that sends HTTP requests and prints the answers; requests name their tokens."""
    return _pod(
        "ask",
        image,
        _inside("ask", questions),
        volumes={"tokens": {"secret": {"secretName": tokens_secret, "defaultMode": 0o440}}},
    )


def reaching_pod(image: Image, addresses: Sequence[tuple[str, int]]) -> Body:
    """Return a pod that connects to addresses and prints the results."""
    return _pod("reach", image, _inside("reach", addresses))


def listening_pod(image: Image) -> Body:
    """Return a pod that accepts connections on `PORT`."""
    body = _pod("listen", image, _inside("listen", PORT), seconds=patience.TEST)
    body["metadata"]["labels"]["iot-sensor-e2e/listens"] = "true"
    (container,) = body["spec"]["containers"]
    container["ports"] = [{"containerPort": PORT}]
    return body


def closing_policy() -> Body:
    """Return a network policy that closes the listening pod."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "nobody"},
        "spec": {
            "podSelector": {"matchLabels": {"iot-sensor-e2e/listens": "true"}},
            "policyTypes": ["Ingress"],
        },
    }


def eviction(name: str, namespace: str) -> Body:
    """Return an eviction of a pod."""
    return {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": name, "namespace": namespace},
    }


def _inside(mode: str, argument: object) -> list[str]:
    return ["python", "-c", _INSIDE, mode, json.dumps(argument)]


def _pod(
    role: str,
    image: Image,
    command: Sequence[str],
    *,
    volumes: Mapping[str, Body] | None = None,
    seconds: int = patience.POD_START + patience.POD_END,
) -> Body:
    """Return a pod that runs a command once. No policy of the chart selects its labels."""
    held = {"tmp": {"emptyDir": {"sizeLimit": "16Mi"}}, **(volumes or {})}
    mounts = [
        {"name": name, "mountPath": "/tmp" if name == "tmp" else f"/etc/e2e/{name}"}  # noqa: S108 -- an emptyDir
        for name in held
    ]
    container = {
        "name": role,
        "image": image.reference,
        "imagePullPolicy": image.pull_policy,
        "command": list(command),
        "env": [{"name": "HOME", "value": "/tmp"}],  # noqa: S108 -- an emptyDir
        "resources": {
            "requests": {"cpu": "50m", "memory": "64Mi"},
            "limits": {"memory": "256Mi"},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": mounts,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": f"e2e-{role}-", "labels": {"iot-sensor-e2e": role}},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 2,  # the command exits without SIGTERM
            "activeDeadlineSeconds": seconds,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "imagePullSecrets": [{"name": each} for each in image.pull_secrets],
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "runAsGroup": 65532,
                "fsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": [{"name": name, **each} for name, each in held.items()],
        },
    }
