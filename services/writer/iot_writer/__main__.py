"""`python -m iot_writer`: run a writer process."""

import gc
import os
import sys

from . import shutdown


def main() -> int:
    """Run a writer until SIGTERM. Return the exit code: 0, or 2 when a setting is wrong."""
    shutdown.install_signal_handlers()
    gc.disable()  # imports make no garbage; collecting takes a sixth of their time
    # Imported after the handlers are installed: the imports take a second, in which SIGTERM would
    # kill the process.
    from iot_cipher.secrets import disable_core_dumps  # noqa: PLC0415
    from iot_models import logs, tracing  # noqa: PLC0415
    from iot_models.allocator import hand_back_large_blocks  # noqa: PLC0415
    from iot_models.errors import SettingsError  # noqa: PLC0415
    from iot_models.settings import drop_stray_libpq_variables, load_key_names  # noqa: PLC0415

    tracing.keep_out()
    disable_core_dumps()
    hand_back_large_blocks()
    drop_stray_libpq_variables()
    try:
        os.environ["RQ_KEY_PREFIX"] = load_key_names().rq  # RQ reads it at its import
    except SettingsError as error:
        return _fail(error)

    from .health import serve_health  # noqa: PLC0415
    from .rq_worker import work  # noqa: PLC0415
    from .writer import current  # noqa: PLC0415

    gc.freeze()
    gc.enable()
    try:
        if tracing.is_requested():
            tracing.start("iot-writer")
        writer = current()
        settings = writer.settings
        logs.start(settings.log_format, settings.log_level)
        if settings.writer_metrics_port:
            serve_health(writer.readiness(), settings.metrics_address, settings.writer_metrics_port)
    except SettingsError as error:
        return _fail(error)
    try:
        work(writer)
    finally:
        tracing.stop()
    return 0


def _fail(error: Exception) -> int:
    from iot_models.logs import last_line  # noqa: PLC0415 - after the handlers are installed
    from iot_models.settings import load_one  # noqa: PLC0415

    last_line("iot-writer", error, load_one("log_format"))
    return 2


if __name__ == "__main__":
    sys.exit(main())
