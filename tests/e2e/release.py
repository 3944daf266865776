"""An installed release of the chart, and the operations of the tests on it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from kubernetes import client

from e2e import patience
from e2e.bodies import asking_pod, eviction, load_pod, reaching_pod
from e2e.cluster import Cluster
from e2e.helm import Chart, Helm, Names
from e2e.load import Load

NAME = "iot"
_ROLLED = ("api", "writer")
_BUSY = 429


class Release:
    """A release in its own namespace; its names come from `chart`."""

    def __init__(self, cluster: Cluster, helm: Helm, namespace: str, chart: Chart) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.chart = chart
        self._helm = helm

    @cached_property
    def names(self) -> Names:
        """Names of the objects of the release."""
        return Names(tuple(self._helm.render(self.chart, NAME, self.namespace)))

    @property
    def url(self) -> str:
        """URL of the API for pods."""
        return self.names.url.format(namespace=self.namespace)

    def host(self, name: str) -> str:
        """Return the host name of a Service of the release."""
        return f"{name}.{self.namespace}.svc"

    def install(self, chart: Chart | None = None) -> None:
        """Install the release and wait until it is ready."""
        self._change("install", NAME, *(chart or self.chart).words)

    def upgrade(self, chart: Chart) -> None:
        """Upgrade with only these values, and wait until the release is ready."""
        self._change("upgrade", NAME, *chart.words, "--reset-values")

    def roll_back(self, revision: int) -> None:
        """Roll back to a revision, and wait until the release is ready."""
        self._change("rollback", NAME, str(revision))

    def test(self) -> str:
        """Run `helm test` and return its output."""
        limit = f"--timeout={patience.HELM_TEST}s"
        return self._run("test", NAME, "--logs", limit, seconds=patience.HELM_TEST)

    def uninstall(self) -> None:
        """Uninstall the release, and wait until its pods are gone."""
        limit = f"--timeout={patience.UNINSTALL}s"
        self._run("uninstall", NAME, "--wait", limit, seconds=patience.UNINSTALL)
        self.cluster.wait(
            lambda: not any(self.pods(each) for each in (*_ROLLED, "redis", "postgres")),
            patience.UNINSTALL,
            "the end of all pods",
        )

    def ask(self, *questions: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Send requests with a `path` from a pod through the Service, and return the answers."""
        asked = [
            {name: value for name, value in each.items() if name != "path"}
            | {"url": self.url + each["path"]}
            for each in questions
        ]
        body = asking_pod(self.names.image, asked, f"{self.names.fullname}-token-values")
        answers: list[dict[str, Any]] = self._said(self.namespace, body)
        return answers

    def reach(self, namespace: str, addresses: Sequence[tuple[str, int]]) -> list[str]:
        """Return the results of connections from a pod of that namespace; see `inside.reach`."""
        came: list[str] = self._said(namespace, reaching_pod(self.names.image, addresses))
        return came

    @contextmanager
    def load(self, *, devices: int = 6, rate: float = 10.0) -> Iterator[Load]:
        """Run a load within the block, which starts when every device has sent readings."""
        secret = f"{self.names.fullname}-probe"
        body = load_pod(self.names.image, self.url, secret, devices=devices, rate=rate)
        made = Load(self.cluster, self.namespace, body)
        try:
            made.go_on()
            yield made
        finally:
            made.stop()

    def pods(self, component: str) -> list[Any]:
        """Return the pods of a component, including terminating pods."""
        labels = {"instance": NAME, "component": component}
        selector = ",".join(f"app.kubernetes.io/{name}={each}" for name, each in labels.items())
        found = self.cluster.core.list_namespaced_pod(self.namespace, label_selector=selector)
        items: list[Any] = found.items
        return items

    def wait_until_whole(self, component: str, replicas: int, *, without: set[str]) -> None:
        """Wait until exactly `replicas` pods exist, all ready, with no uid in `without`."""

        def whole() -> bool:
            pods = self.pods(component)
            uids = {each.metadata.uid for each in pods}
            return len(pods) == replicas and all(map(is_ready, pods)) and not uids & without

        self.cluster.wait(whole, patience.ROLLOUT, f"{replicas} ready pods of the {component}")

    def replicas(self, component: str) -> int:
        """Return the configured replicas of a component."""
        return self.names.replicas(component)

    def kill(self, pods: Sequence[Any]) -> set[str]:
        """Delete pods without a grace period, and return their uids."""
        for each in pods:
            self.cluster.core.delete_namespaced_pod(
                each.metadata.name, self.namespace, grace_period_seconds=0
            )
        return {each.metadata.uid for each in pods}

    def evict(self, pod: Any) -> None:
        """Evict a pod, and retry until its budget allows it, as `kubectl drain` does."""
        name = pod.metadata.name

        def asked() -> bool:
            try:
                self.cluster.core.create_namespaced_pod_eviction(
                    name, self.namespace, eviction(name, self.namespace)
                )
            except client.ApiException as error:
                if error.status == _BUSY:
                    return False
                if error.status != 404:
                    raise
            return True

        self.cluster.wait(asked, patience.EVICTION, f"the eviction of {name}")

    def scale(self, component: str, replicas: int) -> None:
        """Scale a component, and wait until it has exactly that many pods."""
        name = f"{self.names.fullname}-{component}"
        self.cluster.apps.patch_namespaced_deployment_scale(
            name, self.namespace, {"spec": {"replicas": replicas}}
        )
        self.wait_until_whole(component, replicas, without=set())

    def secrets(self) -> dict[str, tuple[str, str]]:
        """Return uid and resourceVersion of every Secret by name, except those of helm."""
        found = self.cluster.core.list_namespaced_secret(self.namespace).items
        return {
            each.metadata.name: (each.metadata.uid, each.metadata.resource_version)
            for each in found
            if not each.type.startswith("helm.sh/")
        }

    def claims(self) -> dict[str, str]:
        """Return the uid of every PersistentVolumeClaim by name."""
        found = self.cluster.core.list_namespaced_persistent_volume_claim(self.namespace).items
        return {each.metadata.name: each.metadata.uid for each in found}

    def uids(self, *components: str) -> set[str]:
        """Return the uids of the pods of components."""
        return {each.metadata.uid for component in components for each in self.pods(component)}

    def _change(self, *words: str) -> None:
        limit = f"--timeout={patience.INSTALL}s"
        self._run(*words, "--wait", "--wait-for-jobs", limit, seconds=patience.INSTALL)

    def _run(self, *words: str, seconds: float) -> str:
        return self._helm.run(*words, f"--namespace={self.namespace}", seconds=seconds)

    def _said(self, namespace: str, body: Mapping[str, Any]) -> Any:
        """Return the last line of a pod's log, parsed as JSON."""
        name = self.cluster.start_pod(namespace, body)
        code, log = self.cluster.end_of_pod(namespace, name, patience.POD_END)
        assert code == 0, log
        return json.loads(log.strip().rpartition("\n")[2])


def is_ready(pod: Any) -> bool:
    """Return whether a pod is ready and not terminating."""
    conditions = {each.type: each.status for each in pod.status.conditions or []}
    return pod.metadata.deletion_timestamp is None and conditions.get("Ready") == "True"
