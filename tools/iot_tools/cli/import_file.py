"""`iot-sensor import`: import readings from a file."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from iot_models.errors import IotError
from iot_sensor_client import Client, NoResponseError
from iot_tools.transfer.import_format import FORMATS
from iot_tools.transfer.import_sources import open_source
from iot_tools.transfer.importer import Importer, ImportReport
from iot_tools.transfer.service_pages import RETRY, TIMEOUT, ServiceError

from .password_option import add_password, password_of
from .progress_bar import progress_bar
from .service_option import add_service, checked_url, service_client
from .tls_options import tls_of

_DESCRIPTION = """\
Import readings from a file: CSV, NDJSON, JSON, Parquet, or a database of the old program.

CSV, NDJSON and JSON may be compressed with gzip. Readings keep their times, including the time of
receipt. The command may be repeated and stopped at any point: it imports only what the service
lacks. It needs a token with the scope admin, unless the service runs without tokens.
"""


def add_import(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `import`."""
    parser.description = _DESCRIPTION
    parser.add_argument(
        "file", type=Path, help="SQLite file of the old program, Parquet, CSV, NDJSON or JSON"
    )
    add_service(parser)
    add_password(parser)
    parser.add_argument("--format", choices=FORMATS, help="format of the file; default: detected")
    parser.add_argument(
        "--dry-run", action="store_true", help="check the file, compare, and import nothing"
    )
    parser.set_defaults(command=_import)


@contextmanager
def client_of(parsed: argparse.Namespace) -> Iterator[Client]:
    """Check that the service answers at the URL of the options. Provide a client for it.

    Without this check, the client would retry for minutes before it reports that nothing answers.

    Raises:
        SettingsError: an option can't be used.
        IotError: nothing answers at the URL, or the block raised `ServiceError`. The message names
            the URL.
    """
    client = service_client(parsed, retry=RETRY, timeout=TIMEOUT, gzip=True)
    try:
        with checked_url(), Client(parsed.url, tls_context=tls_of(parsed)) as first:
            first.request("GET", "/healthz")
    except NoResponseError as error:
        raise IotError(f"{parsed.url}: {error}") from None
    with client:
        try:
            yield client
        except ServiceError as error:
            raise IotError(f"{parsed.url}: {error}") from None


def _import(parsed: argparse.Namespace) -> int:
    password = password_of(parsed)
    source = open_source(parsed.file, parsed.format, password)
    with client_of(parsed) as client, progress_bar() as progress:
        try:
            report = Importer(client, source, password, progress).run(dry_run=parsed.dry_run)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("run the import again to continue") from None
    for line in report_lines(report, dry_run=parsed.dry_run):
        print(line)
    if source.more_pages:
        print(
            f"warning: {parsed.file} is one page of an answer: import its further pages, too",
            file=sys.stderr,
        )
    if not report.readings:
        raise IotError(f"{parsed.file}: {_nothing(report)}; nothing was imported")
    return 1 if report.unusable else 0


def counted(number: int, noun: str) -> str:
    """Return text such as `1 row` or `2 rows`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _nothing(report: ImportReport) -> str:
    if report.other_password:
        return "no row is under this password"
    return "holds no reading that can be imported"


def report_lines(report: ImportReport, *, dry_run: bool) -> list[str]:
    """Return lines that say what an import has found and done."""
    absent = report.readings - report.present
    lines = [counted(report.rows, "row")]
    if dry_run:
        lines.append(f"{absent} would be imported")
    else:
        lines.append(f"{report.imported} imported")
    were = "was" if report.present == 1 else "were"
    lines.append(f"{report.present} {were} in the service before")
    if report.other_password:
        lines.append(
            f"{report.other_password} skipped: under another password, or damaged; run the import "
            "again with the other password"
        )
    lines += [f"{count} skipped: {reason}" for reason, count in report.unusable.items()]
    return lines + [f"  {example}" for example in report.examples]
