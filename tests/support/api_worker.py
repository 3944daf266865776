"""A gunicorn worker of the API without a master."""

from collections.abc import Iterator
from contextlib import contextmanager

from gunicorn.config import Config

from iot_api.server.gunicorn_worker import ApiWorker


@contextmanager
def lone_worker(log: object) -> Iterator[ApiWorker]:
    """Yield a worker that logs to `log`."""
    config = Config()
    config.set("keepalive", 75)
    worker = ApiWorker(0, 0, [], None, 30, config, log)
    yield worker
    worker.tmp.close()
