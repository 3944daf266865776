"""What a chart renders to, and what tests ask of it."""

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
    """A pod, or a template of pods: the object it stands in, its metadata and its spec."""

    owner: Object
    metadata: Object
    spec: Object

    def __str__(self) -> str:
        return title(self.owner)

    @property
    def labels(self) -> Mapping[str, str]:
        """Its labels."""
        return self.metadata.get("labels") or {}

    @property
    def component(self) -> str:
        """Its `app.kubernetes.io/component`."""
        return self.labels.get(COMPONENT, "")

    @property
    def containers(self) -> list[Object]:
        """Containers, those that come first included."""
        return [*(self.spec.get("initContainers") or ()), *self.spec["containers"]]


@dataclass(frozen=True)
class Release:
    """The objects that `helm template` gave for a set of values."""

    name: str
    namespace: str
    values: Mapping[str, Any]
    objects: tuple[Object, ...]

    def of(self, *kinds: str) -> list[Object]:
        """The objects of these kinds."""
        return [each for each in self.objects if each["kind"] in kinds]

    def named(self, kind: str) -> dict[str, Object]:
        """The objects of a kind by their names."""
        return {name_of(each): each for each in self.of(kind)}

    @cached_property
    def pods(self) -> list[Pod]:
        """All pods, of whatever makes them."""
        return [Pod(*found) for each in self.objects for found in _pods(each)]

    def pod(self, component: str) -> Pod:
        """The one pod of that component."""
        (found,) = (each for each in self.pods if each.component == component)
        return found

    def runs(self, name: str) -> tuple[Pod, Object]:
        """The one container of that name, and its pod: those of the writers may also migrate."""
        ((pod, container),) = (
            (pod, container)
            for pod in self.pods
            for container in pod.containers
            if container["name"] == name
        )
        return pod, container


def title(each: Object) -> str:
    """Kind and name, for messages."""
    return f"{each['kind']} {name_of(each)}"


def name_of(each: Object) -> str:
    """The name of an object."""
    name: str = each["metadata"]["name"]
    return name


def annotations(each: Object) -> Mapping[str, str]:
    """The annotations of an object."""
    return each["metadata"].get("annotations") or {}


def hooks(each: Object) -> set[str]:
    """The events that an object is a hook of; empty for what is part of the release."""
    return {text.strip() for text in annotations(each).get(HOOK, "").split(",")} - {""}


def weight(each: Object) -> int:
    """The weight of a hook."""
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
    """Every string inside of a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from strings(each)
