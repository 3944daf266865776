"""Lua scripts: load them from the files of this package, run many calls in one round trip."""

from collections.abc import Sequence
from importlib import resources
from typing import Any

from redis import Redis
from redis.commands.core import Script
from redis.exceptions import NoScriptError

Call = tuple[Sequence[Any], Sequence[Any]]
"""Keys and arguments of one call of a script."""


def load_script(client: "Redis", name: str) -> Any:
    """Return the Lua script in a file of this package, ready to be called."""
    return client.register_script(resources.files(__package__).joinpath(name).read_text())


def run_all(client: "Redis", script: Script, calls: Sequence[Call]) -> list[Any]:
    """Send many calls of a script in one round trip, and return their answers.

    Redis runs the calls one by one. A call that fails does not stop the next ones.

    Raises:
        RedisError: the first error among the answers; or Redis is away, and which calls ran is
            unknown.
    """
    answers = _execute(client, [_evalsha(script, call) for call in calls])
    load_and_repeat(client, script, calls, answers)
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers


def load_and_repeat(
    client: "Redis",
    script: Script,
    calls: Sequence[Call],
    answers: list[Any],
    trailing_command: Sequence[Any] = (),
) -> Any:
    """Repeat the calls that Redis has refused because it forgot the script, in a restart.

    Replace their `answers`, and return the answer of `trailing_command`, which is sent after these
    calls over the same connection. redis-py's own way in a pipeline, `Script`, sends SCRIPT EXISTS
    before each execution, which costs a round trip.

    Raises:
        RedisError: Redis is away, and which calls ran is unknown.
    """
    forgotten = [at for at, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
    if not forgotten:
        return None
    # Loaded and run in one transaction, so that Redis can't forget the script in between. The
    # trailing command follows the transaction: WAIT does not wait within one.
    commands: list[Sequence[Any]] = [("MULTI",), ("SCRIPT LOAD", script.script)]
    commands += [_evalsha(script, calls[at]) for at in forgotten]
    commands.append(("EXEC",))
    done = len(commands) - 1
    if trailing_command:
        commands.append(trailing_command)
    again = _execute(client, commands)
    if isinstance(again[done], Exception):
        # A command that was refused before the transaction says why, for example that the memory is
        # full; the transaction's own error does not.
        raise next(answer for answer in again if isinstance(answer, Exception))
    for at, answer in zip(forgotten, again[done][1:], strict=True):
        answers[at] = answer
    return again[-1] if trailing_command else None


def _evalsha(script: Script, call: Call) -> Sequence[Any]:
    keys, arguments = call
    return ("EVALSHA", script.sha, len(keys), *keys, *arguments)


def _execute(client: "Redis", commands: Sequence[Sequence[Any]]) -> list[Any]:
    with client.pipeline(transaction=False) as pipeline:
        for command in commands:
            pipeline.execute_command(*command)  # type: ignore[no-untyped-call]
        return pipeline.execute(raise_on_error=False)
