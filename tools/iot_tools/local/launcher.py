"""The launcher of API and writers, for `make run`, the benchmarks and the tests."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .child import Child, Program

GUNICORN = ("-m", "gunicorn", "--config", "python:iot_api.gunicorn_conf")
APPLICATION = "iot_api.wsgi:app"


def environment_with(variables: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment with `variables` instead of all its `IOT_*` variables."""
    others = {name: text for name, text in os.environ.items() if not name.startswith("IOT_")}
    return {**others, **variables}


@dataclass
class Launcher:
    """Prepares API, writer and other Python processes with a common environment.

    The methods return a `Child` that is not started yet.
    """

    environment: Mapping[str, str]
    logs: Path
    """The folder of the logs. The log of a process is `<name>.log`."""
    inherit: Sequence[int] = field(default=())
    """File descriptors that the processes inherit."""

    def api(
        self,
        *options: str,
        name: str = "api",
        ready: Callable[[], bool] | None = None,
        variables: Mapping[str, str] = {},
        stop_seconds: float = 15,
    ) -> Child:
        """Return the API: gunicorn with `options`. `variables` are added to the environment."""
        arguments = [*GUNICORN, *options, APPLICATION]
        return self.python(name, arguments, ready, variables, stop_seconds)

    def writer(
        self,
        *,
        name: str = "writer",
        variables: Mapping[str, str] = {},
        stop_seconds: float = 40,
    ) -> Child:
        """Return a writer. `variables` are added to the environment."""
        return self.python(name, ["-m", "iot_writer"], None, variables, stop_seconds)

    def python(
        self,
        name: str,
        arguments: Sequence[str],
        ready: Callable[[], bool] | None = None,
        variables: Mapping[str, str] = {},
        stop_seconds: float = 15,
    ) -> Child:
        """Return a process that runs this Python interpreter with `arguments`."""
        program = Program(
            name=name,
            arguments=[sys.executable, *arguments],
            environment={**self.environment, **variables},
            log=self.logs / f"{name}.log",
            stop_seconds=stop_seconds,
        )
        return Child(program, ready=ready, inherit=self.inherit)
