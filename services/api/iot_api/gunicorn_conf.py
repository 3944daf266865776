"""gunicorn's configuration: `gunicorn --config python:iot_api.gunicorn_conf iot_api.wsgi:app`."""

import gc
import importlib
import os
import shutil
import ssl
import subprocess
import sys
from typing import Any

from gevent import events, monkey

from iot_api.limits.memory_budget import budget_bytes
from iot_api.limits.pod_lock import share_locks
from iot_api.server.logs import gunicorn_log, libraries_level, log_uncaught_in_greenlets
from iot_api.server.metrics_folder import create_metrics_folder
from iot_api.server.startup_errors import (
    check_certificate,
    check_client_authorities,
    check_metrics_port,
    check_revocation_lists,
    refuse,
    refuse_in_master,
    share,
)
from iot_cipher.secrets import disable_core_dumps
from iot_models import tracing
from iot_models.allocator import hand_back_large_blocks
from iot_models.errors import SettingsError
from iot_models.logs import JSON
from iot_models.origins import parse_origins
from iot_models.settings import drop_stray_libpq_variables, load

# The workers write their metrics to files in this folder. prometheus_client reads the variable when
# it is imported, so the variable is set before any module imports prometheus_client.
_metrics_folder = create_metrics_folder()
os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(_metrics_folder)
share(_metrics_folder)
share_locks(_metrics_folder)

tracing.keep_out()
disable_core_dumps()  # the workers and the metrics server inherit the limit
drop_stray_libpq_variables()
try:
    _settings = load()
    check_certificate(_settings.tls_certificate, _settings.tls_key)
    check_client_authorities(_settings.tls_client_ca_file)
    check_revocation_lists(_settings.tls_client_crl_file)
    check_metrics_port(_settings.metrics_address, _settings.api_metrics_port)
except SettingsError as error:
    shutil.rmtree(_metrics_folder, ignore_errors=True)
    refuse(error)

# The master imports the app, so that workers start faster and share its memory. gevent patches the
# standard library first, because drivers bind some of its functions when they are imported. `os`,
# `queue`, `signal` and `subprocess` stay unpatched: the master forks its workers and waits for them
# with these modules, and workers use none of them. The next line keeps gevent from searching the
# metadata of all packages for plugins, once for each module that it patches.
events.notify_and_call_entry_points = events.notify
gc.disable()  # imports make no garbage, and collections would take an eighth of the import time
monkey.patch_all(os=False, queue=False, signal=False, subprocess=False)
importlib.import_module("iot_api.app")
gc.freeze()  # no collection visits what was imported, so that workers keep sharing that memory
gc.enable()

bind = _settings.bind
workers = _settings.api_workers
# docs/adr/0003 says why gevent.
worker_class = "iot_api.server.gunicorn_worker.ApiWorker"
worker_connections = _settings.api_connections
keepalive = _settings.keepalive_seconds
timeout = 60
graceful_timeout = 30
# gunicorn ignores headers with addresses and schemes: IOT_TRUSTED_PROXIES decides about them.
forwarded_allow_ips = ""
certfile = _settings.tls_certificate or None
keyfile = _settings.tls_key or None
ca_certs = _settings.tls_client_ca_file or None
cert_reqs = ssl.CERT_NONE
if ca_certs is not None:
    cert_reqs = ssl.CERT_REQUIRED if _settings.tls_client_required else ssl.CERT_OPTIONAL
logger_class = gunicorn_log(_settings.log_format, _settings.log_level)
loglevel = libraries_level(_settings.log_level).lower()
proc_name = "iot-api"
# A worker touches a file here to show gunicorn's master that it is alive. On a slow disk, the
# worker would hang, and the master would kill it.
_memory = "/dev/shm"  # noqa: S108
worker_tmp_dir = _memory if os.access(_memory, os.W_OK) else None
control_socket_disable = True


def when_ready(server: Any) -> None:
    """Start the metrics server.

    The metrics server is a separate process. It can't be a thread of gunicorn's master: gevent
    would make the thread a greenlet. This greenlet would never run, because the master does not run
    gevent's event loop.
    """
    if _settings.api_metrics_port:
        command = [sys.executable, "-m", "iot_api.server"]
        server.metrics_process = subprocess.Popen(command)  # noqa: S603 - a constant


def post_worker_init(worker: Any) -> None:
    """Pass settings to the worker, set up its memory allocator, start its background threads."""
    from iot_api.server.gunicorn_worker import Limits  # noqa: PLC0415 - after gevent's patches

    worker.limit(
        Limits(
            connections=_settings.api_connections,
            connections_per_network=_connections_per_network(),
            memory_bytes=budget_bytes(_settings),
        )
    )
    if _settings.tls_client_crl_file:
        worker.check_revocations(_settings.tls_client_crl_file)
    worker.allow(parse_origins(_settings.cors_origins))
    hand_back_large_blocks()
    if _settings.log_format == JSON:
        log_uncaught_in_greenlets()
    service = _service(worker)
    if service is not None:
        worker.on_shutdown = service.live.stop
        service.watcher.start()
        if service.rate_settler is not None:
            service.rate_settler.start()
        service.change_follower.start()
        service.vault_restorer.start()
        service.access_audit.start()


def _connections_per_network() -> int | None:
    if _settings.trusted_proxies:
        return None  # every connection comes from a proxy
    return _settings.api_connections_per_address or max(1, _settings.api_connections // 2)


def worker_exit(server: Any, worker: Any) -> None:
    """Close the worker's connections to the stores and send its trace spans.

    gunicorn calls this while the worker's event loop still runs.
    """
    del server
    service = _service(worker)
    if service is not None:
        service.close()
    tracing.stop()


def _service(worker: Any) -> Any:
    """Return the `Service` of a worker's app; None if the worker failed to load the app."""
    return getattr(getattr(worker, "wsgi", None), "extensions", {}).get("iot")


def child_exit(server: Any, worker: Any) -> None:
    """Drop the gauges of a worker that has ended."""
    from prometheus_client import multiprocess  # noqa: PLC0415 - after gevent's patches

    del server
    multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]


def on_exit(server: Any) -> None:
    """Stop the metrics server and remove the folder of metrics.

    If a worker ended because of a wrong setting, the worker's error becomes the last line of the
    log.
    """
    metrics_process = getattr(server, "metrics_process", None)
    if metrics_process is not None:
        metrics_process.terminate()
        metrics_process.wait()
    try:
        refuse_in_master()
    finally:
        shutil.rmtree(_metrics_folder, ignore_errors=True)
