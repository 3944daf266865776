"""Give a driver of the old program an outbox: replace the thread that sends its readings.

Most old drivers send from the method `communication_consumer`, whose thread ends at the first
connection error: every reading after that is lost. (`ImpinjXArray` has no such method.) Put
`OutboxConsumer` in front of the driver's class, and change nothing else:

    class SafeImpinjR420(OutboxConsumer, ImpinjR420):
        pass

Readings then wait on the disk while the service is unavailable, even if the driver is restarted.
"""  # noqa: INP001 -- an example, no package

import logging
import queue
import time
from typing import Any

from iot_sensor_client import Client, Outbox, OutboxFullError

_log = logging.getLogger(__name__)
_WAIT_SECONDS = 0.25
_FULL_SECONDS = 1.0


class OutboxConsumer:
    """Sends the readings that an old driver queues.

    The driver must set the attributes that this class declares without a value. A driver without
    `communication_consumer` sends in another way. Deriving a class from this class and the driver
    raises TypeError, because this class would do nothing.
    """

    outbox_path = "readings.outbox"
    """Path of the outbox. Drivers that run at the same time need different paths."""

    db_host: str
    db_password: str
    cert_path: str
    exiting: bool
    tag_dicts_queue: "queue.Queue[dict[str, Any]]"

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # A class with one base only changes attributes, for example for all drivers of a site.
        if len(cls.__bases__) > 1 and not hasattr(super(), "communication_consumer"):
            raise TypeError(
                f"{cls.__name__}: no class after OutboxConsumer has a method communication_consumer"
                " to replace"
            )

    def communication_consumer(self) -> None:
        """Move readings from the queue to the outbox until the driver exits and the queue is empty.

        The queue is in memory only, so each reading goes to the outbox as soon as it arrives.
        If `cert_path` is "NONE", an old driver does not verify the certificate of the service at
        all. This consumer does, with the certificate authorities of the system.
        """
        ca_file = None if self.cert_path == "NONE" else self.cert_path
        with (
            Client(self.db_host, self.db_password, ca_file=ca_file) as client,
            Outbox(client, self.outbox_path) as outbox,
        ):
            while True:
                exiting = self.exiting
                readings = self._queued()
                if readings:
                    self._keep(outbox, readings)
                elif exiting:
                    return

    def _queued(self) -> list[dict[str, Any]]:
        """Return the readings in the queue, after a short wait if it is empty."""
        rows: list[dict[str, Any]] = []
        try:
            rows.append(self.tag_dicts_queue.get(timeout=_WAIT_SECONDS))
            while True:
                rows.append(self.tag_dicts_queue.get_nowait())
        except queue.Empty:
            pass
        # The client adds the password: the file of the outbox holds none.
        names = ("relative_time", "interrogator_time", "freeform")
        return [{name: row["data"][name] for name in names} for row in rows]

    def _keep(self, outbox: Outbox, readings: list[dict[str, Any]]) -> None:
        while True:
            try:
                return outbox.send(readings)
            except OutboxFullError as error:
                _log.error("%s", error)
                if self.exiting:
                    raise
                time.sleep(_FULL_SECONDS)
