"""The `restricted` Pod Security profile: its rules and the rules of `baseline`.

From the Kubernetes page "Pod Security Standards", version 1.34, for Linux pods. Where versions
differ, the stricter rule applies.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

Object = Mapping[str, Any]
Rule = Callable[[Object, Object], Iterator[str]]
"""Takes metadata and spec of a pod; yields a sentence for each violation."""

SAFE_SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
}
VOLUME_TYPES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
SELINUX_TYPES = {None, "", "container_t", "container_init_t", "container_kvm_t"}
APPARMOR_ANNOTATION = "container.apparmor.security.beta.kubernetes.io/"


def violations(metadata: Object, spec: Object) -> list[str]:
    """Return why the level `restricted` refuses the pod; empty if the pod is admitted."""
    return [f"{name}: {each}" for name, rule in RULES.items() for each in rule(metadata, spec)]


def containers(spec: Object) -> list[Object]:
    """Return all containers of a pod, of every kind."""
    kinds = ("initContainers", "containers", "ephemeralContainers")
    return [each for kind in kinds for each in spec.get(kind) or ()]


def _contexts(spec: Object) -> Iterator[tuple[str, Object]]:
    """Yield the security contexts with the names of their owners, first the pod."""
    yield "the pod", spec.get("securityContext") or {}
    yield from _container_contexts(spec)


def _container_contexts(spec: Object) -> Iterator[tuple[str, Object]]:
    for container in containers(spec):
        yield container["name"], container.get("securityContext") or {}


def _host_process(_: Object, spec: Object) -> Iterator[str]:
    for whose, context in _contexts(spec):
        if (context.get("windowsOptions") or {}).get("hostProcess"):
            yield f"{whose} is a process of the host"


def _host_namespaces(_: Object, spec: Object) -> Iterator[str]:
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield f"the pod sets {name}"


def _privileged(_: Object, spec: Object) -> Iterator[str]:
    for whose, context in _container_contexts(spec):
        if context.get("privileged"):
            yield f"{whose} is privileged"


def _capabilities(_: Object, spec: Object) -> Iterator[str]:
    for whose, context in _container_contexts(spec):
        capabilities = context.get("capabilities") or {}
        if "ALL" not in (capabilities.get("drop") or ()):
            yield f"{whose} doesn't drop ALL"
        if added := set(capabilities.get("add") or ()) - {"NET_BIND_SERVICE"}:
            yield f"{whose} adds {sorted(added)}"


def _host_path(_: Object, spec: Object) -> Iterator[str]:
    for volume in spec.get("volumes") or ():
        if "hostPath" in volume:
            yield f"the volume {volume['name']} is a hostPath"


def _host_ports(_: Object, spec: Object) -> Iterator[str]:
    for container in containers(spec):
        for port in container.get("ports") or ():
            if port.get("hostPort"):
                yield f"{container['name']} takes the host's port {port['hostPort']}"


def _probe_hosts(_: Object, spec: Object) -> Iterator[str]:
    for container in containers(spec):
        handlers = [container.get(f"{kind}Probe") for kind in ("liveness", "readiness", "startup")]
        handlers += (container.get("lifecycle") or {}).values()
        for handler in filter(None, handlers):
            for kind in ("httpGet", "tcpSocket"):
                if (handler.get(kind) or {}).get("host"):
                    yield f"{container['name']} has a handler that asks another host"


def _apparmor(metadata: Object, spec: Object) -> Iterator[str]:
    for whose, context in _contexts(spec):
        kind = (context.get("appArmorProfile") or {}).get("type")
        if kind not in {None, "RuntimeDefault", "Localhost"}:
            yield f"{whose} has the AppArmor profile {kind}"
    for name, value in (metadata.get("annotations") or {}).items():
        fine = value in {"", "runtime/default"} or value.startswith("localhost/")
        if name.startswith(APPARMOR_ANNOTATION) and not fine:
            yield f"an annotation sets the AppArmor profile {value}"


def _selinux(_: Object, spec: Object) -> Iterator[str]:
    for whose, context in _contexts(spec):
        options = context.get("seLinuxOptions") or {}
        if options.get("type") not in SELINUX_TYPES:
            yield f"{whose} has the SELinux type {options['type']}"
        for name in ("user", "role"):
            if options.get(name):
                yield f"{whose} sets a SELinux {name}"


def _proc_mount(_: Object, spec: Object) -> Iterator[str]:
    for whose, context in _container_contexts(spec):
        if context.get("procMount") not in {None, "Default"}:
            yield f"{whose} has the procMount {context['procMount']}"


def _seccomp(_: Object, spec: Object) -> Iterator[str]:
    fine = {"RuntimeDefault", "Localhost"}
    of_pod, *of_containers = [
        (whose, (context.get("seccompProfile") or {}).get("type"))
        for whose, context in _contexts(spec)
    ]
    if of_pod[1] not in fine | {None}:
        yield f"the pod has the seccomp profile {of_pod[1]}"
    for whose, kind in of_containers:
        if kind not in fine and not (kind is None and of_pod[1] in fine):
            yield f"{whose} has the seccomp profile {kind}"


def _sysctls(_: Object, spec: Object) -> Iterator[str]:
    for each in (spec.get("securityContext") or {}).get("sysctls") or ():
        if each["name"] not in SAFE_SYSCTLS:
            yield f"the pod sets {each['name']}"


def _volume_types(_: Object, spec: Object) -> Iterator[str]:
    for volume in spec.get("volumes") or ():
        if other := set(volume) - {"name"} - VOLUME_TYPES:
            yield f"the volume {volume['name']} is a {min(other)}"


def _privilege_escalation(_: Object, spec: Object) -> Iterator[str]:
    for whose, context in _container_contexts(spec):
        if context.get("allowPrivilegeEscalation") is not False:
            yield f"{whose} doesn't forbid allowPrivilegeEscalation"


def _non_root(_: Object, spec: Object) -> Iterator[str]:
    of_pod = (spec.get("securityContext") or {}).get("runAsNonRoot")
    if of_pod is False:
        yield "the pod sets runAsNonRoot to false"
    for whose, context in _container_contexts(spec):
        if context.get("runAsNonRoot", of_pod) is not True:
            yield f"{whose} doesn't set runAsNonRoot, nor does its pod"


def _user(_: Object, spec: Object) -> Iterator[str]:
    for whose, context in _contexts(spec):
        if context.get("runAsUser") == 0:
            yield f"{whose} runs as user 0"


RULES: Mapping[str, Rule] = {
    "HostProcess": _host_process,
    "Host namespaces": _host_namespaces,
    "Privileged containers": _privileged,
    "Capabilities": _capabilities,
    "HostPath volumes": _host_path,
    "Host ports": _host_ports,
    "Host probes and lifecycle hooks": _probe_hosts,
    "AppArmor": _apparmor,
    "SELinux": _selinux,
    "/proc mount type": _proc_mount,
    "Seccomp": _seccomp,
    "Sysctls": _sysctls,
    "Volume types": _volume_types,
    "Privilege escalation": _privilege_escalation,
    "Running as non-root": _non_root,
    "Running as non-root user": _user,
}
"""The rules by their names in the Kubernetes page."""
