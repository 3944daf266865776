"""Schedulable nodes, and a node that is cordoned temporarily."""

from collections.abc import Iterator
from contextlib import contextmanager

from e2e.cluster import Cluster

_KEEPS_OFF = {"NoSchedule", "NoExecute"}


def usable(cluster: Cluster) -> list[str]:
    """Return the nodes that are ready and accept every pod."""
    return [
        each.metadata.name
        for each in cluster.core.list_node().items
        if not each.spec.unschedulable
        and not any(taint.effect in _KEEPS_OFF for taint in each.spec.taints or [])
        and any(one.type == "Ready" and one.status == "True" for one in each.status.conditions)
    ]


@contextmanager
def cordoned(cluster: Cluster, name: str) -> Iterator[None]:
    """Cordon a node within the block."""
    cluster.core.patch_node(name, {"spec": {"unschedulable": True}})
    try:
        yield
    finally:
        cluster.core.patch_node(name, {"spec": {"unschedulable": None}})
