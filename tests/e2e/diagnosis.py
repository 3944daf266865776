"""The state of a namespace in which a test failed."""

from collections.abc import Iterator
from typing import Any

import urllib3
from kubernetes import client

from e2e.cluster import Cluster

_LINES = 150


def of_namespace(cluster: Cluster, namespace: str) -> str:
    """Return pods, events and logs, never Secrets; an error is reported in place of its part."""
    lines: list[str] = []
    for part in (_pods, _events, _logs):
        try:
            lines += part(cluster, namespace)
        except (client.ApiException, urllib3.exceptions.HTTPError) as error:
            lines.append(f"{part.__name__.strip('_')} can't be read: {error}")
    return "\n".join(lines)


def _pods(cluster: Cluster, namespace: str) -> Iterator[str]:
    yield f"--- pods of {namespace}"
    for pod in cluster.core.list_namespaced_pod(namespace).items:
        status = pod.status
        conditions = [
            f"{each.type}={each.status} {each.reason or ''} {each.message or ''}".strip()
            for each in status.conditions or []
            if each.status != "True"
        ]
        going = " terminating" if pod.metadata.deletion_timestamp else ""
        yield f"{pod.metadata.name} on {pod.spec.node_name}: {status.phase}{going} {conditions}"
        for each in _containers(pod):
            yield (
                f"  {each.name}: image {each.image}, ready {each.ready}, restarts "
                f"{each.restart_count}, {_state(each.state)}, before {_state(each.last_state)}"
            )


def _events(cluster: Cluster, namespace: str) -> Iterator[str]:
    yield f"--- events of {namespace}"
    events = cluster.core.list_namespaced_event(namespace).items
    for each in sorted(events, key=_when)[-_LINES:]:
        which = f"{each.involved_object.kind}/{each.involved_object.name}"
        yield f"{_when(each)} {each.type} {which} {each.reason} x{each.count or 1}: {each.message}"


def _logs(cluster: Cluster, namespace: str) -> Iterator[str]:
    for pod in cluster.core.list_namespaced_pod(namespace).items:
        for each in _containers(pod):
            for previous in (True, False) if each.restart_count else (False,):
                yield f"--- log of {pod.metadata.name}{' before its restart' if previous else ''}"
                options = {"tail_lines": _LINES, "previous": previous, "container": each.name}
                try:
                    yield cluster.log(namespace, pod.metadata.name, **options)
                except (client.ApiException, urllib3.exceptions.HTTPError) as error:
                    yield f"none: {getattr(error, 'reason', error)}"


def _containers(pod: Any) -> list[Any]:
    return [*(pod.status.init_container_statuses or []), *(pod.status.container_statuses or [])]


def _state(state: Any) -> str:
    for kind in ("running", "waiting", "terminated"):
        found = getattr(state, kind, None) if state else None
        if found:
            code = getattr(found, "exit_code", None)
            told = (getattr(found, "reason", None), getattr(found, "message", None), code)
            return " ".join([kind, *(str(each) for each in told if each is not None)])
    return "nothing"


def _when(event: Any) -> str:
    return str(event.last_timestamp or event.event_time or event.metadata.creation_timestamp)
