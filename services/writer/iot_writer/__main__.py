"""`python -m iot_writer`: a writer process."""

import logging
import signal
import sys

from prometheus_client import start_http_server

from iot_models.errors import SettingsError

from .worker import DrainWorker, work
from .writer import current


def main() -> int:
    """Run until SIGTERM; 2 when a setting is wrong."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: DrainWorker.stop_asked.set())
    try:
        writer = current()
    except SettingsError as error:
        print(f"iot-writer: {error}", file=sys.stderr)
        return 2
    logging.basicConfig(
        level=writer.settings.log_level, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    if writer.settings.writer_metrics_port:
        start_http_server(writer.settings.writer_metrics_port, writer.settings.metrics_address)
    work(writer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
