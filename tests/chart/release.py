"""The objects of a rendered chart."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

Object = Mapping[str, Any]
HOOK = "helm.sh/hook"
WEIGHT = "helm.sh/hook-weight"
COMPONENT = "app.kubernetes.io/component"


@dataclass(frozen=True)
class Pod:
    """A pod or a pod template: the object that contains it, its metadata and its spec."""

    owner: Object
    metadata: Object
    spec: Object

    def __str__(self) -> str:
        return title(self.owner)

    @property
    def labels(self) -> Mapping[str, str]:
        """Labels of the pod."""
        return self.metadata.get("labels") or {}

    @property
    def component(self) -> str:
        """Value of the label `app.kubernetes.io/component`."""
        return self.labels.get(COMPONENT, "")

    @property
    def containers(self) -> list[Object]:
        """Init containers and containers of the pod."""
        return [*(self.spec.get("initContainers") or ()), *self.spec["containers"]]


@dataclass(frozen=True)
class Release:
    """The objects that `helm template` prints for a set of values."""

    name: str
    namespace: str
    values: Mapping[str, Any]
    objects: tuple[Object, ...]

    def of(self, *kinds: str) -> list[Object]:
        """Return the objects of these kinds."""
        return [each for each in self.objects if each["kind"] in kinds]

    def named(self, kind: str) -> dict[str, Object]:
        """Return the objects of a kind by their names."""
        return {name_of(each): each for each in self.of(kind)}

    @cached_property
    def pods(self) -> list[Pod]:
        """All pods and pod templates."""
        return [Pod(*found) for each in self.objects for found in _pods(each)]

    def pod(self, component: str) -> Pod:
        """Return the one pod of that component."""
        (found,) = (each for each in self.pods if each.component == component)
        return found

    def runs(self, name: str) -> tuple[Pod, Object]:
        """Return the one container of that name and its pod."""
        ((pod, container),) = (
            (pod, container)
            for pod in self.pods
            for container in pod.containers
            if container["name"] == name
        )
        return pod, container


def title(each: Object) -> str:
    """Return kind and name, for messages."""
    return f"{each['kind']} {name_of(each)}"


def name_of(each: Object) -> str:
    """Return the name of an object."""
    name: str = each["metadata"]["name"]
    return name


def annotations(each: Object) -> Mapping[str, str]:
    """Return the annotations of an object."""
    return each["metadata"].get("annotations") or {}


def hooks(each: Object) -> set[str]:
    """Return the events of a hook; empty for an object that is part of the release."""
    return {text.strip() for text in annotations(each).get(HOOK, "").split(",")} - {""}


def weight(each: Object) -> int:
    """Return the weight of a hook."""
    return int(annotations(each).get(WEIGHT, "0"))


def _pods(each: Object) -> Iterator[tuple[Object, Object, Object]]:
    kind, spec = each["kind"], each.get("spec") or {}
    if kind == "Pod":
        yield each, each["metadata"], spec
    elif kind == "CronJob":
        template = spec["jobTemplate"]["spec"]["template"]
        yield each, template.get("metadata") or {}, template["spec"]
    elif kind in {"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job"}:
        yield each, spec["template"].get("metadata") or {}, spec["template"]["spec"]


def strings(value: object) -> Iterator[str]:
    """Yield every string in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from strings(each)
