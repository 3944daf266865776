"""`iot-sensor export`: export readings into files."""

import argparse
from pathlib import Path
from urllib.parse import quote

from iot_models.errors import IotError, SettingsError
from iot_tools.transfer.export_spool import ExportSpool
from iot_tools.transfer.exporter import FORMATS, Exporter, ExportForm, refuse_existing
from iot_tools.transfer.service_pages import ServicePages

from .import_file import add_service, client_of, counted
from .option_types import Subparsers
from .password_option import password_of
from .progress_bar import progress_bar

_DESCRIPTION = """\
Export the readings of a password. The end of the file's name tells the form: .csv, .ndjson,
.parquet (needs pyarrow), or .db, a database that the old program's scripts read with the same
password. An export that was stopped continues when the command is repeated.
"""


def add_export(commands: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add `export` to the command."""
    parser = commands.add_parser(
        "export",
        help="export the readings of a password: CSV, NDJSON, Parquet, or the old program's SQLite",
        description=_DESCRIPTION,
    )
    parser.add_argument("file", type=Path, help="file to write")
    add_service(parser)
    parser.add_argument(
        "--format", choices=sorted(set(FORMATS.values())), help="default: by the end of the name"
    )
    parser.add_argument(
        "--from", dest="begin", metavar="TIME", help="only readings from this time on (RFC 3339)"
    )
    parser.add_argument(
        "--to", dest="end", metavar="TIME", help="only readings before this time (RFC 3339)"
    )
    parser.add_argument(
        "--by",
        choices=["received", "interrogator"],
        default="received",
        help="which time --from and --to mean (default received)",
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
    refuse_existing(parsed.file)
    password = password_of(parsed)
    query = _query(parsed)
    selection = {"url": parsed.url, "query": query}
    with client_of(parsed) as client, progress_bar() as progress:
        spool = ExportSpool(parsed.file.with_name(f"{parsed.file.name}.part"), selection)
        pages = ServicePages(client, password, query=query)
        exporter = Exporter(pages, spool, progress, password)
        try:
            count = exporter.fetch()
            if not count:
                spool.delete()
                raise IotError(f"{parsed.url}: no readings under this password; nothing written")
            paths = exporter.write(parsed.file, form)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("run the export again to continue") from None
        finally:
            spool.close()
    print(counted(count, "reading"))
    print("\n".join(map(str, paths)))
    return 0


def _form(parsed: argparse.Namespace) -> ExportForm:
    form = parsed.format or FORMATS.get(parsed.file.suffix.lower())
    if form is None:
        raise SettingsError(
            f"{parsed.file}: the name does not tell the form; end it with "
            f"{', '.join(FORMATS)}, or use --format"
        )
    if parsed.flatten and form == "sqlite":
        raise SettingsError("--flatten: the old program's table has no columns for freeform")
    return ExportForm(form, parsed.flatten, parsed.split_runs)


def _query(parsed: argparse.Namespace) -> str:
    if parsed.begin is None and parsed.end is None:
        return ""
    given = {"from": parsed.begin, "to": parsed.end, "by": parsed.by}
    return "".join(f"&{name}={quote(text)}" for name, text in given.items() if text is not None)
