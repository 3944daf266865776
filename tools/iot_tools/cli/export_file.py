"""`iot-sensor export`: export readings into files."""

import argparse
import re
from decimal import Decimal
from pathlib import Path
from urllib.parse import quote

from iot_models.errors import IotError, SettingsError
from iot_models.times import parse_time_or_date
from iot_sensor_client import Client
from iot_tools.transfer.export_spool import ExportSpool
from iot_tools.transfer.exporter import FORMATS, Exporter, ExportForm
from iot_tools.transfer.service_pages import ServicePages

from .import_file import client_of, counted
from .password_option import add_password, password_of
from .progress_bar import progress_bar
from .service_option import add_service

_DESCRIPTION = """\
Export the readings of a password.

The extension of the file chooses the format: .csv, .ndjson, .parquet (needs pyarrow), or .db, a
database that the old program's scripts read with the same password. An export that was stopped
continues when the command is repeated.
"""

_COMPRESSED = frozenset({".gz", ".zst", ".xz", ".bz2", ".zip"})
_MILLISECONDS = re.compile(r"-?\d{1,19}(\.\d{1,9})?", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d[Tt ].*", re.ASCII)


def add_export(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `export`."""
    parser.description = _DESCRIPTION
    parser.add_argument("file", type=Path, help="file to write")
    add_service(parser)
    add_password(parser)
    parser.add_argument(
        "--format",
        choices=sorted(set(FORMATS.values())),
        help="format of the file; default: by its extension",
    )
    parser.add_argument(
        "--from",
        dest="begin",
        metavar="TIME",
        help="only readings from this time on (RFC 3339 or Unix milliseconds)",
    )
    parser.add_argument(
        "--to",
        dest="end",
        metavar="TIME",
        help="only readings before this time (RFC 3339 or Unix milliseconds)",
    )
    parser.add_argument(
        "--by",
        choices=["received", "interrogator"],
        default="received",
        help="time that --from and --to limit (default received)",
    )
    parser.add_argument(
        "--flatten", action="store_true", help="add a column for each member of freeform"
    )
    parser.add_argument(
        "--split-runs",
        action="store_true",
        help="begin a new file (name-001, name-002, ...) where the relative time starts again",
    )
    parser.set_defaults(command=_export)


def _export(parsed: argparse.Namespace) -> int:
    form = _form(parsed)
    query = _query(parsed)
    password = password_of(parsed)
    selection = {"url": parsed.url, "query": query}
    with client_of(parsed) as client, progress_bar() as progress:
        spool = ExportSpool(parsed.file, selection)
        pages = ServicePages(client, password, query=query)
        exporter = Exporter(pages, spool, progress, password)
        try:
            exporter.check(parsed.file, form)
            count = exporter.fetch(form)
            if not count:
                raise IotError(
                    f"{parsed.url}: {_nothing(client, password, query)}; nothing written"
                )
            paths = exporter.write(parsed.file, form)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("run the export again to continue") from None
        finally:
            spool.close()
    print(counted(count, "reading"))
    print("\n".join(map(str, paths)))
    return 0


def _nothing(client: Client, password: str, query: str) -> str:
    """Return why there is nothing to export: either the time range or the whole vault is empty."""
    if query and any(page.readings for page in ServicePages(client, password).pages()):
        return "no readings in this range"
    return "no readings under this password"


def _form(parsed: argparse.Namespace) -> ExportForm:
    if parsed.file == Path("-"):
        raise SettingsError("-: an export to standard output is not supported; name a file")
    if parsed.file.name in {"", ".."}:
        raise SettingsError(f"{parsed.file} is a folder: name a file")
    if parsed.file.suffix.lower() in _COMPRESSED:
        raise SettingsError(
            f"{parsed.file}: exported files are not compressed; export "
            f"{parsed.file.with_suffix('')}, then compress it"
        )
    form = parsed.format or FORMATS.get(parsed.file.suffix.lower())
    if form is None:
        raise SettingsError(
            f"{parsed.file}: unknown extension; use {', '.join(FORMATS)}, or use --format"
        )
    if parsed.flatten and form == "sqlite":
        raise SettingsError(
            "--flatten can't be used with the format sqlite: the old program's table has no "
            "columns for members of freeform"
        )
    return ExportForm(form, parsed.flatten, parsed.split_runs)


def _query(parsed: argparse.Namespace) -> str:
    if parsed.begin is None and parsed.end is None:
        return ""
    begin, end = _moment("--from", parsed.begin), _moment("--to", parsed.end)
    if begin is not None and end is not None and begin >= end:
        raise SettingsError("--from: must be before --to")
    given = {"from": parsed.begin, "to": parsed.end, "by": parsed.by}
    return "".join(f"&{name}={quote(text)}" for name, text in given.items() if text is not None)


def _moment(option: str, text: str | None) -> Decimal | None:
    """Return the time `text` in microseconds since 1970; None if the option is not given."""
    if text is None:
        return None
    if _MILLISECONDS.fullmatch(text):
        return Decimal(text) * 1000
    try:
        if _DATE.fullmatch(text):
            return Decimal(parse_time_or_date(text))
    except ValueError:
        pass
    raise SettingsError(
        f"{option}: must be RFC 3339, such as 2026-11-28T07:00:00Z, or Unix milliseconds"
    )
