"""Lua scripts: loaded from the files of this package, run one by one or many in a round trip."""

from collections.abc import Sequence
from importlib import resources
from typing import Any

from redis import Redis
from redis.commands.core import Script
from redis.exceptions import NoScriptError

Call = tuple[Sequence[Any], Sequence[Any]]
"""Keys and arguments."""


def load_script(client: "Redis", name: str) -> Any:
    """The Lua script in a file of this package, ready to be called."""
    return client.register_script(resources.files(__package__).joinpath(name).read_text())


def run_all(client: "Redis", script: Script, calls: Sequence[Call]) -> list[Any]:
    """A script's answers to calls that are sent together, and are run one after the other.

    All are run, whatever becomes of one.

    Raises:
        RedisError: the first error among the answers; or it can't be told which were run.
    """
    answers, _ = try_all(client, script, calls)
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers


def try_all(
    client: "Redis", script: Script, calls: Sequence[Call], *, behind: Sequence[Any] = ()
) -> tuple[list[Any], Any]:
    """As `run_all`, but a call's error stands in the place of its answer. With it comes the answer
    of the command `behind`, sent behind them over their connection; None when there is none.

    Raises:
        RedisError: it can't be told which were run.
    """
    answers, reached = _send(client, script, calls, behind)
    unknown = [at for at, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
    if unknown:
        client.script_load(script.script)
        again, reached = _send(client, script, [calls[at] for at in unknown], behind)
        for at, answer in zip(unknown, again, strict=True):
            answers[at] = answer
    return answers, reached


def _send(
    client: "Redis", script: Script, calls: Sequence[Call], behind: Sequence[Any]
) -> tuple[list[Any], Any]:
    with client.pipeline(transaction=False) as pipeline:
        for keys, arguments in calls:
            pipeline.execute_command("EVALSHA", script.sha, len(keys), *keys, *arguments)  # type: ignore[no-untyped-call]
        if behind:
            pipeline.execute_command(*behind)  # type: ignore[no-untyped-call]
        answers = pipeline.execute(raise_on_error=False)
    return answers, answers.pop() if behind else None
