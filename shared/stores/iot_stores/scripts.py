"""Lua scripts: load them from the files of this package, run many calls in one round trip."""

from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any

from redis import Redis
from redis.commands.core import Script
from redis.exceptions import NoScriptError, ResponseError

Call = tuple[Sequence[Any], Sequence[Any]]
"""Keys and arguments of one call of a script."""
_LOADS = 100
"""Maximum number of times that `load_and_repeat` loads a script. Redis forgets a loaded script when
another client sends SCRIPT FLUSH."""


def load_script(client: "Redis", name: str) -> Any:
    """Return the Lua script in a file of this package, ready to be called."""
    return client.register_script(resources.files(__package__).joinpath(name).read_text())


def run_all(
    client: "Redis", script: Script, calls: Sequence[Call], before: Sequence[Sequence[Any]] = ()
) -> list[Any]:
    """Send many calls of a script in one round trip, and return their answers.

    Redis runs the calls one by one, after the commands `before`. A call or a command that fails
    does not stop the next ones.

    Raises:
        RedisError: the first error among the answers; or Redis is away: some calls may have run.
    """
    answers = round_trip(client, [*before, *(evalsha(script, call) for call in calls)])
    first, answers = answers[: len(before)], answers[len(before) :]
    load_and_repeat(client, script, calls, answers)
    checked(first)
    return checked(answers)


def run_commands(client: "Redis", commands: Sequence[Sequence[Any]]) -> list[Any]:
    """Send commands in one round trip, and return their answers as Redis gives them.

    Raises:
        RedisError: the first error among the answers; or Redis is away.
    """
    return checked(round_trip(client, commands))


def load_and_repeat(
    client: "Redis",
    script: Script,
    calls: Sequence[Call],
    answers: list[Any],
    *,
    before: Sequence[Sequence[Any]] = (),
    after: Sequence[Sequence[Any]] = (),
    on_failure: Callable[[Exception], object] = lambda _: None,
) -> list[Any]:
    """Load a script, and repeat the calls that Redis refused because it does not know the script.

    Put the new answers of these calls into `answers`. Send the commands `before` and `after` over
    the same connection, and return their answers; return [] if no call was repeated. The calls are
    repeated in order, but not in a transaction. `on_failure` is as in `round_trip`.

    Raises:
        RedisError: Redis refused to load the script, or is away: some calls may have run.
    """
    # redis-py's own way, `Script` in a pipeline, sends SCRIPT EXISTS before each execution, which
    # costs a round trip.
    others: list[Any] = []
    for _ in range(_LOADS):
        forgotten = [at for at, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if not forgotten:
            break
        # Not in a transaction: while the memory is full, Redis 6.2 and 7.0 refuse (OOM) every
        # command within MULTI, even one that frees memory.
        repeated = [evalsha(script, calls[at]) for at in forgotten]
        commands = [("SCRIPT LOAD", script.script), *before, *repeated, *after]
        loaded, *others = round_trip(client, commands, on_failure)
        if isinstance(loaded, Exception):
            raise loaded
        for at in forgotten:
            answers[at] = others.pop(len(before))
    return others


def evalsha(script: Script, call: Call) -> Sequence[Any]:
    """Return the command that calls a script."""
    keys, arguments = call
    return ("EVALSHA", script.sha, len(keys), *keys, *arguments)


def round_trip(
    client: "Redis",
    commands: Sequence[Sequence[Any]],
    on_failure: Callable[[Exception], object] = lambda _: None,
) -> list[Any]:
    """Send commands over one connection, and return their answers as Redis gives them.

    Redis runs the commands one by one. A command that fails does not stop the next ones: its error
    is its answer. If the connection breaks, the commands are sent again, as in a pipeline. Before
    that, `on_failure` is called: the commands may have run, and their answers are lost.

    redis-py's own pipeline takes several times the CPU, for features that are not used here.

    Raises:
        RedisError: Redis is away; some commands may have run.
    """
    pool: Any = client.connection_pool
    connection = pool.get_connection()

    def exchange() -> list[Any]:
        connection.send_packed_command(connection.pack_commands(commands))
        return [_answer(connection) for _ in commands]

    def disconnect(error: Exception) -> None:
        on_failure(error)
        connection.disconnect()

    try:
        answers: list[Any] = connection.retry.call_with_retry(exchange, disconnect)
        return answers
    finally:
        pool.release(connection)


def _answer(connection: Any) -> Any:
    try:
        return connection.read_response()
    except ResponseError as error:
        return error


def checked(answers: list[Any]) -> list[Any]:
    """Return the answers. Raise the first error among them."""
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers
