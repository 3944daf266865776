"""The screen of `iot-sensor top`, made of an answer of `GET /api/status`."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from iot_models.logs import printable

Part = Mapping[str, Any]
Line = tuple[str | Text, ...]

OLD_SECONDS = 60.0
"""An entry that waits for more seconds is shown as a problem, as in the alert IotBacklogOld."""
FULL = 0.7
"""A backlog that fills more than this share of its limit is shown as a problem, as in the alert
IotBacklogNearlyFull."""
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_SHARDS = "stored last for shards"
_FIXED_LINES = 18
"""Lines of the screen besides the rows of its tables."""


def screen(
    status: Part | None, url: str, problem: str = "", *, height: int | None = None
) -> RenderableType:
    """Return the screen for `status`, which is None if no status was received yet.

    `problem` says why the last request failed; it is empty if the request succeeded.
    If `height` is given, tables are cut and lines do not wrap, so that the screen fits into this
    number of lines.
    """
    parts: list[RenderableType] = [_title(status, url, problem)]
    if status is None:
        return Group(*parts)
    parts.append(_summary(status))
    if "shards" in status:
        rows = _rows_that_fit(status, height)
        parts.append(_processes(status, rows))
        parts.append(_shards(status["shards"], rows))
        parts.append(_dead_letters(status["dead_letters"], rows))
    return Group(*parts)


def _rows_that_fit(status: Part, height: int | None) -> int | None:
    """Return how many rows each table (processes, shards, dead letters) may have; None for all."""
    if height is None:
        return None
    wanted = (
        len(status["writers"]) + len(status["api_processes"]),
        len(status["shards"]),
        len(status["dead_letters"]["oldest"]),
    )
    free, rows = height - _FIXED_LINES, 1
    while rows < max(wanted) and sum(min(each, rows + 1) for each in wanted) <= free:
        rows += 1
    return rows


def _title(status: Part | None, url: str, problem: str) -> Text:
    title = Text("iot-sensor", style="bold")
    if status is not None:
        moment = datetime.fromtimestamp(status["time"] / 1000, UTC)
        title.append(
            f" {status['version']}  {url}  {moment:%Y-%m-%d %H:%M:%S} UTC", style="not bold"
        )
    else:
        title.append(f"  {url}", style="not bold")
    if problem:
        title.append(f"\nno new status: {problem}", style="bold red")
    return title


def _summary(status: Part) -> RenderableType:
    lines = Table.grid(padding=(0, 2))
    lines.add_column(style="bold", no_wrap=True)
    lines.add_column()
    lines.add_row("stores", _stores(status["stores"]))
    if "rates" in status:
        lines.add_row("rates", _rates(status["rates"]))
        lines.add_row("backlog", _backlog(status["backlog"]))
        lines.add_row("hot window", _hot_window(status["hot_window"]))
        lines.add_row("keys", _keys(status["keys"]))
    if "schema" in status:
        lines.add_row("schema", f"{status['schema']['revision']:04}")
    return lines


def _stores(stores: Mapping[str, str]) -> Text:
    shown = Text()
    for name, state in stores.items():
        # The JSON name is `hot_window`.
        shown.append(f"{name.replace('_', ' ')} ")
        shown.append(f"{state}   ", style="green" if state.startswith("ok") else "bold red")
    return shown


def _rates(rates: Mapping[str, float]) -> Text:
    shown = Text(
        f"in {_number(rates['readings_in'])} readings/s, {_size(rates['bytes_in'])}/s   "
        f"out {_number(rates['readings_out'])} readings/s, {_size(rates['bytes_out'])}/s   "
        f"read {_number(rates['readings_read'])} readings/s"
    )
    if rates["puts_rejected"]:
        shown.append(f"   rejected {_number(rates['puts_rejected'])} PUTs/s", style="bold red")
    return shown


def _backlog(backlog: Part) -> Text:
    full = backlog["bytes"] / max(1, backlog["limit_bytes"])
    shown = Text()
    shown.append(
        f"{_size(backlog['bytes'])} of {_size(backlog['limit_bytes'])} ({full:.0%})",
        style="bold red" if full > FULL else "",
    )
    shown.append(f"   {backlog['entries']:,} entries   ")
    oldest = backlog["oldest_seconds"]
    shown.append(f"oldest {_age(oldest)}", style=_of_age(oldest))
    held = backlog["held_entries"]
    shown.append(f"   {held:,} held", style="bold red" if held else "")
    return shown


def _hot_window(window: Part) -> Text:
    covered, seconds = window["covered_seconds"], window["seconds"]
    if covered is None:
        return Text(f"{_age(seconds)}, cover unknown")
    whole = covered >= seconds
    return Text(f"the last {_age(covered)} of {_age(seconds)}", style="" if whole else "yellow")


def _keys(keys: Sequence[Part]) -> Text:
    shown = Text()
    for key in keys:
        said = ["primary"] if key["primary"] else []
        for name, processes in (("api", "API processes"), ("writers", "writers")):
            if key[name] is False:
                said.append(f"not loaded by all {processes}")
        shown.append(str(key["id"]))
        shown.append(f" ({', '.join(said)})   " if said else "   ")
    return shown if keys else Text("no process runs")


def _processes(status: Part, rows: int | None) -> RenderableType:
    shards_of: dict[str, list[int]] = {}
    for shard in status["shards"]:
        shards_of.setdefault(shard["drained_by"], []).append(shard["shard"])
    lines: list[Line] = [
        _process(each, "writer", each["readings_out"], shards_of.get(each["name"], ()))
        for each in status["writers"]
    ]
    if not lines:
        lines = [(Text("no writer runs", style="bold red"), "writer", "", "", "")]
    lines += [_process(each, "API", each["readings_in"], ()) for each in status["api_processes"]]
    table = _table("process", "", "heartbeat >", "readings/s >", _SHARDS, long=_SHARDS)
    return _filled(table, lines, rows)


def _process(process: Part, kind: str, rate: float, shards: Sequence[int]) -> Line:
    beat = f"{process['heartbeat_seconds']:.0f} s ago"
    return printable(process["name"]), kind, beat, _number(rate), _ranges(shards)


def _shards(shards: Sequence[Part], rows: int | None) -> RenderableType:
    """Return the table of shards. If it is cut, it shows the shards whose entries wait longest."""
    if rows is not None and len(shards) > rows:
        longest = sorted(shards, key=lambda shard: shard["oldest_seconds"], reverse=True)
        shards = sorted(longest[:rows], key=lambda shard: shard["shard"]) + longest[rows:]
    lines: list[Line] = [
        (
            str(each["shard"]),
            f"{each['entries']:,}",
            Text(_age(each["oldest_seconds"]), style=_of_age(each["oldest_seconds"])),
            printable(each["drained_by"] or "-"),
            "-" if each["drained_seconds"] is None else f"{_age(each['drained_seconds'])} ago",
            "-" if each["hot_window_seconds"] is None else _age(each["hot_window_seconds"]),
        )
        for each in shards
    ]
    headings = "shard >", "entries >", "oldest >", "drained by", "last >", "hot window >"
    return _filled(_table(*headings, long="drained by"), lines, rows)


def _dead_letters(letters: Part, rows: int | None) -> RenderableType:
    if not letters["count"]:
        return Text("\nno dead letters", style="green")
    lines: list[Line] = [
        (
            each["id"],
            f"{datetime.fromtimestamp(each['time'] / 1000, UTC):%Y-%m-%d %H:%M:%S}",
            str(each["shard"]),
            printable(each["reason"]),
        )
        for each in letters["oldest"]
    ]
    table = _table("dead letter", "set aside", "shard >", "reason", long="reason")
    table.title = Text(
        f"{letters['count']:,} dead letters: see iot-sensor dead show, replay, drop", "bold red"
    )
    return _filled(table, lines, rows, total=letters["count"])


def _table(*headings: str, long: str) -> Table:
    """Return a table without rows. A heading that ends with `>` begins a column of numbers.

    The column `long` gets the room that the other columns leave.
    """
    table = Table(
        box=None, padding=(0, 3, 0, 0), header_style="dim", title_justify="left", title_style=""
    )
    for heading in headings:
        table.add_column(
            heading.removesuffix(" >"),
            justify="right" if heading.endswith(">") else "left",
            no_wrap=heading != long,
        )
    return table


def _filled(table: Table, lines: Sequence[Line], rows: int | None, total: int = 0) -> Group:
    """Add the first `rows` of `lines` to a table. Return the table as a part of the screen.

    If lines are left out, a line below the table says how many. `total` is the number of all
    lines, which the caller passes if `lines` is only a part of them. Long lines are cut off. If
    `rows` is None, all of `lines` are added, and long lines wrap.
    """
    shown = lines[:rows]
    for line in shown:
        cells = [Text(cell) if isinstance(cell, str) else cell for cell in line]
        if rows is not None:
            for cell in cells:
                cell.no_wrap, cell.overflow = True, "ellipsis"
        table.add_row(*cells)
    left_out = max(total, len(lines)) - len(shown)
    return Group("", table, *([f"and {left_out:,} more"] if left_out else ()))


def _of_age(seconds: float) -> str:
    return "bold red" if seconds > OLD_SECONDS else ""


def _ranges(numbers: Iterable[int]) -> str:
    """Return numbers as text such as `0-3, 7`."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ", ".join("-".join(map(str, run)) for run in runs)


def _number(value: float) -> str:
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def _size(count: float) -> str:
    power = 0
    while count >= 1024 and power < len(_UNITS) - 1:
        count, power = count / 1024, power + 1
    return f"{count:,.0f} {_UNITS[power]}" if power == 0 else f"{count:,.1f} {_UNITS[power]}"


def _age(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s" if 0 < seconds < 10 else f"{seconds:.0f} s"
    minutes, hours = seconds / 60, seconds / 3600
    return f"{minutes:.0f} min" if minutes < 120 else f"{hours:.0f} h"
