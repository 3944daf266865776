"""The API's gunicorn worker without a master."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from gunicorn import util
from gunicorn.config import Config
from gunicorn.http.unreader import SocketUnreader

from iot_api.worker import ApiWorker


@contextmanager
def lone_worker(log: object) -> Iterator[ApiWorker]:
    """A worker that logs to `log`. What it changes of gunicorn is changed back."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(util, "write_error", util.write_error)
        for name in ("chunk", "max_body_chunk"):
            patch.setattr(SocketUnreader, name, getattr(SocketUnreader, name))
        config = Config()
        config.set("keepalive", 75)
        worker = ApiWorker(0, 0, [], None, 30, config, log)
        yield worker
        worker.tmp.close()
