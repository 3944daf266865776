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
    answers, _ = try_all(client, script, calls)
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers


def try_all(
    client: "Redis", script: Script, calls: Sequence[Call], *, trailing_command: Sequence[Any] = ()
) -> tuple[list[Any], Any]:
    """Like `run_all`, but return the error of a failed call in place of its result.

    Also return the answer of `trailing_command`, which is sent after the calls over the same
    connection; None without such a command.

    Raises:
        RedisError: Redis is away, and which calls ran is unknown.
    """
    answers, trailing_answer = _send(client, script, calls, trailing_command)
    # Redis forgets scripts in a restart. redis-py's own way in a pipeline, `Script`, sends SCRIPT
    # EXISTS before each execution, which costs a round trip.
    unknown = [at for at, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
    if unknown:
        repeated = [calls[at] for at in unknown]
        again, trailing_answer = _load_and_send(client, script, repeated, trailing_command)
        for at, answer in zip(unknown, again, strict=True):
            answers[at] = answer
    return answers, trailing_answer


def _send(
    client: "Redis", script: Script, calls: Sequence[Call], trailing_command: Sequence[Any]
) -> tuple[list[Any], Any]:
    commands = [_evalsha(script, call) for call in calls]
    if trailing_command:
        commands.append(trailing_command)
    answers = _execute(client, commands)
    return answers, answers.pop() if trailing_command else None


def _load_and_send(
    client: "Redis", script: Script, calls: Sequence[Call], trailing_command: Sequence[Any]
) -> tuple[list[Any], Any]:
    """Load the script and run it in one transaction, so that Redis can't forget it in between.

    The trailing command follows the transaction: WAIT does not wait within one.
    """
    commands: list[Sequence[Any]] = [("MULTI",), ("SCRIPT LOAD", script.script)]
    commands += [_evalsha(script, call) for call in calls]
    commands.append(("EXEC",))
    done = len(commands) - 1
    if trailing_command:
        commands.append(trailing_command)
    answers = _execute(client, commands)
    if isinstance(answers[done], Exception):
        # A command that was refused before the transaction says why, for example that the memory is
        # full; the transaction's own error does not.
        raise next(answer for answer in answers if isinstance(answer, Exception))
    return answers[done][1:], answers[-1] if trailing_command else None


def _evalsha(script: Script, call: Call) -> Sequence[Any]:
    keys, arguments = call
    return ("EVALSHA", script.sha, len(keys), *keys, *arguments)


def _execute(client: "Redis", commands: Sequence[Sequence[Any]]) -> list[Any]:
    with client.pipeline(transaction=False) as pipeline:
        for command in commands:
            pipeline.execute_command(*command)  # type: ignore[no-untyped-call]
        return pipeline.execute(raise_on_error=False)
