"""The tables of states in docs/reliability.md list the states of the code and of the tests."""

import re
from pathlib import Path

from iot_stores.store_states import POSTGRES_STATES, REDIS_STATES
from system.states import (
    postgres_states,
    redis_states,
    test_postgres_answers,
    test_redis_answers,
)

DOCUMENT = Path(__file__).parents[3] / "docs" / "reliability.md"


def rows(heading: str) -> dict[str, list[str]]:
    """Return the table under a heading, by its first column."""
    text = DOCUMENT.read_text(encoding="utf-8")
    section = text.partition(f"### {heading}\n")[2].partition("\n#")[0]
    found = re.findall(r"^\| `(\w+)` \| (.*) \|$", section, re.MULTILINE)
    return {code: rest.split(" | ") for code, rest in found}


def provoked(table: dict[str, list[str]], by: str) -> set[str]:
    """Return the states of a table that one kind of test provokes."""
    return {code for code, (_, _, test) in table.items() if test == by}


def test_the_table_of_redis_is_complete() -> None:
    table = rows("States of Redis")
    assert {code: meaning for code, (meaning, _, _) in table.items()} == REDIS_STATES
    assert provoked(table, "P") == set(redis_states.STATES)
    assert provoked(table, "A") == test_redis_answers.ANSWERS


def test_the_table_of_postgres_is_complete() -> None:
    table = rows("States of Postgres")
    meanings = {code: meaning for code, (meaning, _, _) in table.items()}
    assert meanings.items() >= POSTGRES_STATES.items()
    assert set(meanings) == set(POSTGRES_STATES) | set(postgres_states.STATES)
    assert provoked(table, "P") == set(postgres_states.STATES)
    assert provoked(table, "A") == test_postgres_answers.ANSWERS
