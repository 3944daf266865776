"""Record the plans of all statements that a function executes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import psycopg
import pytest
from psycopg.abc import Params, Query

from iot_stores.postgres import Connection

_OF_WHOLE = """
    SELECT part.relname, whole.relname FROM pg_inherits
    JOIN pg_class AS part ON part.oid = inhrelid JOIN pg_class AS whole ON whole.oid = inhparent
"""


@dataclass(slots=True)
class Plan:
    """The plan of one statement."""

    indexes: set[str] = field(default_factory=set)
    """Indexes of partitions by the name of the parent's index, or `primary key`."""
    tables: set[str] = field(default_factory=set)
    seq_scans: set[str] = field(default_factory=set)
    """Tables with a sequential scan."""
    buffers: int = 0
    """Pages that the execution read."""


@dataclass(frozen=True, slots=True)
class _Statement:
    query: Query
    params: Params | None
    declared: bool

    def explain(self, connection: Connection) -> dict[str, Any]:
        text = (
            self.query.as_string() if isinstance(self.query, psycopg.sql.Composable) else self.query
        )
        assert isinstance(text, str)
        # For a cursor the planner assumes that a tenth of the rows is fetched.
        cursor = "DECLARE explained CURSOR FOR " if self.declared else ""
        query = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {cursor}{text}"
        with connection.transaction(force_rollback=True):
            row = connection.execute(cast("Any", query), self.params).fetchone()
        assert row is not None
        return cast("list[dict[str, dict[str, Any]]]", row[0])[0]["Plan"]


@contextmanager
def planned(connection: Connection) -> Iterator[list[Plan]]:
    """Yield a list that receives the plans of the connection's statements when the block ends."""
    statements: list[_Statement] = []

    class Recording(psycopg.Cursor[tuple[object, ...]]):
        def execute(self, query: Any, params: Params | None = None, **options: Any) -> Any:
            declare, cursor, selected = str(query).partition(" CURSOR FOR ")
            if cursor and declare.startswith("DECLARE"):
                statements.append(_Statement(selected, params, declared=True))
            else:
                statements.append(_Statement(query, params, declared=False))
            return super().execute(query, params, **options)

    class RecordingServer(psycopg.ServerCursor[tuple[object, ...]]):
        def execute(self, query: Any, params: Params | None = None, **options: Any) -> Any:
            statements.append(_Statement(query, params, declared=True))
            return super().execute(query, params, **options)

    class RecordingClient(psycopg.ClientCursor[tuple[object, ...]]):
        def execute(self, query: Any, params: Params | None = None, **options: Any) -> Any:
            _, _, last = query.rpartition("; ")  # after SET LOCAL, in the same message
            statements.append(_Statement(last, params, declared=False))
            return super().execute(query, params, **options)

    factories = connection.cursor_factory, connection.server_cursor_factory
    connection.cursor_factory = Recording
    connection.server_cursor_factory = RecordingServer
    plans: list[Plan] = []
    try:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(psycopg, "ClientCursor", RecordingClient)
            yield plans
    finally:
        connection.cursor_factory, connection.server_cursor_factory = factories
    wholes = dict(cast("list[tuple[str, str]]", connection.execute(_OF_WHOLE).fetchall()))
    for each in statements:
        if _is_explained(each):
            plans.append(Plan())
            _read(each.explain(connection), wholes, plans[-1])


def _is_explained(statement: _Statement) -> bool:
    words = str(statement.query).split()
    return words[0] in {"SELECT", "INSERT", "UPDATE", "DELETE", "WITH"} or "Composed" in words[0]


def _read(node: dict[str, Any], wholes: dict[str, str], plan: Plan) -> None:
    if not plan.buffers:  # the root node, whose counts include all nodes below
        plan.buffers = node["Shared Hit Blocks"] + node["Shared Read Blocks"]
    table, index = node.get("Relation Name"), node.get("Index Name")
    if table is not None:
        plan.tables.add(table)
        if node["Node Type"] == "Seq Scan":
            plan.seq_scans.add(table)
    if index is not None:
        whole = wholes.get(index, index)
        plan.indexes.add("primary key" if whole.endswith("_pkey") else whole)
    for child in node.get("Plans", ()):
        _read(child, wholes, plan)
