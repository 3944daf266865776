"""Watch how many pods of a release are ready during a change."""

import threading
from collections.abc import Sequence

import urllib3
from kubernetes import client

from e2e import patience
from e2e.release import Release, is_ready


class Availability:
    """A context manager that records the minimum of ready pods of each component."""

    def __init__(self, release: Release, components: Sequence[str]) -> None:
        self.fewest: dict[str, int] = {}
        self.looks = 0
        self._release = release
        self._components = components
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Availability":
        self._thread.start()
        self._release.cluster.wait(lambda: self.looks, patience.REQUEST, "the first list of pods")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(2 * patience.REQUEST)

    def _watch(self) -> None:
        while not self._stop.is_set():
            for each in self._components:
                self._look(each)
            self.looks += 1
            self._stop.wait(patience.POLL / 2)

    def _look(self, component: str) -> None:
        try:
            ready = sum(map(is_ready, self._release.pods(component)))
        except (client.ApiException, urllib3.exceptions.HTTPError):
            return  # an error of the API server says nothing about the pods
        self.fewest[component] = min(ready, self.fewest.get(component, ready))
