"""The objects that a pod refers to."""

from collections.abc import Iterator
from dataclasses import dataclass

from chart.release import Object, Pod


@dataclass(frozen=True)
class Reference:
    """A Secret, ConfigMap or claim that a pod needs to start, and the keys the pod uses."""

    kind: str
    name: str
    keys: frozenset[str] = frozenset()


def references(pod: Pod) -> Iterator[Reference]:
    """Yield everything that must exist before the pod can start, except service accounts."""
    for container in pod.containers:
        for each in container.get("envFrom") or ():
            for field, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
                if field in each:
                    yield Reference(kind, each[field]["name"])
        for each in container.get("env") or ():
            source = each.get("valueFrom") or {}
            for field, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
                if field in source:
                    named = source[field]
                    yield Reference(kind, named["name"], frozenset({named["key"]}))
    for volume in pod.spec.get("volumes") or ():
        yield from _of_volume(volume)
    for each in pod.spec.get("imagePullSecrets") or ():
        yield Reference("pull Secret", each["name"])


def _of_volume(volume: Object) -> Iterator[Reference]:
    if "persistentVolumeClaim" in volume:
        yield Reference("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"])
    if "secret" in volume:
        yield _of_files("Secret", volume["secret"]["secretName"], volume["secret"])
    if "configMap" in volume:
        yield _of_files("ConfigMap", volume["configMap"]["name"], volume["configMap"])
    for source in (volume.get("projected") or {}).get("sources") or ():
        for field, kind in (("secret", "Secret"), ("configMap", "ConfigMap")):
            if field in source:
                yield _of_files(kind, source[field]["name"], source[field])


def _of_files(kind: str, name: str, source: Object) -> Reference:
    return Reference(kind, name, frozenset(each["key"] for each in source.get("items") or ()))


def files(pod: Pod, container: Object) -> Iterator[tuple[str, Reference, str]]:
    """Yield the files of Secrets in a container: path, Secret and key."""
    volumes = {each["name"]: each for each in pod.spec.get("volumes") or ()}
    for mount in container.get("volumeMounts") or ():
        volume = volumes[mount["name"]]
        sources = [each["secret"] for each in (volume.get("projected") or {}).get("sources") or ()]
        sources += [volume["secret"]] if "secret" in volume else []
        for source in sources:
            name = source.get("name") or source["secretName"]
            for item in source.get("items") or ():
                path = f"{mount['mountPath']}/{item['path']}"
                yield path, Reference("Secret", name), item["key"]
