"""What ends the API when a setting is wrong: one sentence, the last line of the log, and code 2.

A worker finds out, since its libraries must not be loaded in gunicorn's master. It leaves the
sentence to the master, which would start workers for ever, or log a traceback.
"""

import ssl
import sys
from pathlib import Path
from typing import NoReturn

from iot_models.errors import SettingsError

EXIT_CODE = 2
_ENDS_MASTER = 3
"""gunicorn's `Arbiter.WORKER_BOOT_ERROR`: the master starts no other worker."""
_shared: list[Path] = []


def share(folder: Path) -> None:
    """Set the folder that master and workers share, in the master before it forks."""
    _shared[:] = [folder]


def check_certificate(certificate: str, key: str) -> None:
    """Load the certificate and its key; does nothing when there is none.

    Raises:
        SettingsError: they can't be read, or don't belong together.
    """
    if not certificate:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # An empty passphrase: OpenSSL would ask the terminal for one.
        context.load_cert_chain(certificate, key, password="")
    except OSError as error:  # that of ssl too
        raise SettingsError(
            f"IOT_TLS_CERTIFICATE and IOT_TLS_KEY can't be used: {error.strerror}"
        ) from None


def refuse_in_worker(error: SettingsError) -> NoReturn:
    """End this worker, and the master with it. Without a master, raise the error."""
    if not _shared:
        raise error
    try:
        with _file().open("x", encoding="utf-8") as file:
            file.write(str(error))
    except FileExistsError:
        # Another worker ends the master. A second one that failed would break the master's end.
        sys.exit(0)
    sys.exit(_ENDS_MASTER)


def refuse_in_master() -> None:
    """End the master with the sentence of a worker, if there is one."""
    try:
        sentence = _file().read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    refuse(sentence)


def refuse(sentence: object) -> NoReturn:
    """End this process with a sentence."""
    print(f"iot-api: {sentence}", file=sys.stderr, flush=True)
    sys.exit(EXIT_CODE)


def _file() -> Path:
    return _shared[0] / "refused"
