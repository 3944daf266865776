"""Faults of the network between the services and a store."""

from system.faults.fault import Scene
from system.faults.proxy import Proxy


def _proxy(scene: Scene, store: str) -> Proxy:
    return scene.service.to_redis if store == "redis" else scene.service.to_postgres


def slow(scene: Scene, store: str) -> None:
    proxy = _proxy(scene, store)
    proxy.slow(scene.chance.uniform(0.02, 0.2))
    try:
        scene.last()
    finally:
        proxy.slow(0)


def hole(scene: Scene, store: str) -> None:
    proxy = _proxy(scene, store)
    proxy.hold(holding=True)
    try:
        scene.last()
    finally:
        proxy.hold(holding=False)


def cut(scene: Scene, store: str) -> None:
    proxy = _proxy(scene, store)
    proxy.cut(cutting=True)
    try:
        scene.last()
    finally:
        proxy.cut(cutting=False)
