"""The script of a fork server: `python forking.py MODULE`. `fork_server.py` says what it is for.

It reads questions from its standard input, one JSON object a line, and answers each with a line
that holds a number.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path.cwd())  # as `python -m` does, instead of the folder of this file

import ctypes
import gc
import importlib
import json
import os
import runpy
import signal
import tempfile
from collections.abc import Mapping
from typing import Any

from iot_models import tracing
from iot_tools.local.launch import die_with

MODULES = ("gunicorn", "iot_writer")
_BEFORE_PATCHES = ("gunicorn.app.wsgiapp", "iot_api.server.logs", "iot_api.server.startup_errors")
_API = ("iot_api.app", "iot_api.server.gunicorn_worker")
_WRITER = ("iot_writer.health", "iot_writer.rq_worker", "iot_writer.writer")


def prepare(module: str) -> None:
    """Import what a process of the module imports before it opens a connection.

    The order and the patches are those of `gunicorn_conf.py` and of `iot_writer/__main__.py`.
    """
    gc.disable()
    tracing.keep_out()
    if module == "iot_writer":
        _import(_WRITER)
    else:
        _prepare_api()
    gc.freeze()  # no collection writes to the memory that the forked processes share
    gc.enable()


def _prepare_api() -> None:
    # prometheus_client uses files if it is set. Each forked process sets it to its own folder.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = os.devnull
    _import(_BEFORE_PATCHES)
    from gevent import events, monkey  # noqa: PLC0415 - a writer does without gevent

    events.notify_and_call_entry_points = events.notify
    monkey.patch_all(os=False, queue=False, signal=False, subprocess=False)
    _import(_API)


def _import(modules: tuple[str, ...]) -> None:
    for module in modules:
        importlib.import_module(module)


def serve() -> Mapping[str, Any] | None:
    """Answer questions until the input ends, then return None.

    In a process that was forked to answer a question, return this question.
    """
    with os.fdopen(os.dup(0), "rb") as questions:
        for line in questions:
            question: Mapping[str, Any] = json.loads(line)
            if "ended" in question:
                _, status = os.waitpid(question["ended"], 0)
                answer = os.waitstatus_to_exitcode(status)
            else:
                answer = fork()
                if answer == 0:
                    return question
            os.write(1, b"%d\n" % answer)
    return None


def fork() -> int:
    """Fork a process with a session of its own. Return its pid; 0 in the process itself."""
    ready, begun = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()
    os.close(begun)
    if pid != 0:
        os.read(ready, 1)  # until the new process has closed its end: it has its session then
    os.close(ready)
    return pid


def become(question: Mapping[str, Any]) -> None:
    """Give this forked process the environment, the arguments and the log of the question."""
    die_with(os.getppid(), signal.SIGTERM, ctypes.CDLL(None, use_errno=True))
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(question["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for standard, file in enumerate((nothing, log, log)):
        os.dup2(file, standard)
    os.closerange(3, max(nothing, log) + 1)
    os.environ.clear()
    os.environ.update(question["environment"])
    if "SHIFTED_CLOCK" in os.environ:
        ctypes.CDLL(None).map_clock()  # of the preloaded library
    tempfile.tempdir = None  # TMPDIR is its own
    sys.argv[1:] = question["arguments"]


def main(module: str) -> None:
    """Fork processes of the module; run the module in a forked process."""
    prepare(module)
    question = serve()
    if question is None:
        os._exit(0)  # the end of the interpreter takes 50 ms
    become(question)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1])
