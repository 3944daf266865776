"""The hash of a job in Redis runs no code: no callback, no webhook, no pickle.

The tests run real writers with each field that RQ knows planted in the hashes of all jobs.
"""

import ast
import inspect
import json
import pickle
import re
import textwrap
import time
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest
from redis import Redis
from rq.job import Job

from integration.writer.sending import Sender
from iot_models import names
from support.keys import KEYS
from support.serving import serving
from support.stack import Stack
from support.waiting import wait_until

PASSWORD = b"p"
EVERY = (*map(names.drain_job, range(8)), *names.JOBS)

PLANTED_MODULE = """
from pathlib import Path
TRACE = Path({trace!r})
TRACE.write_text("imported")
def run(*args, **kwargs):
    TRACE.write_text("called")
"""


class Opened:
    """An object that creates a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self._trace,)


class Trap:
    """An importable module and a reachable server that record their use."""

    def __init__(self, folder: Path, server: HTTPServer) -> None:
        self.trace = folder / "trace"
        self.folder = folder / "planted"
        self.folder.mkdir()
        module = PLANTED_MODULE.format(trace=str(self.trace))
        (self.folder / "planted.py").write_text(module, encoding="utf-8")
        self.url = f"http://127.0.0.1:{server.server_address[1]}/"
        self.requests: list[str] = []

    def fields(self) -> dict[str, bytes | str | int]:
        """Return each field of a job's hash, with a value that RQ would act on."""
        hooks = [
            {"url": self.url + status, "job_status": status, "method": "POST"}
            for status in ("finished", "failed")
        ]
        opened = pickle.dumps(Opened(self.trace))
        timeouts = {f"{each}_callback_timeout": 60 for each in ("success", "failure", "stopped")}
        callbacks = {
            f"{each}_callback_name": "planted.run" for each in ("success", "failure", "stopped")
        }
        return {
            **timeouts,
            **callbacks,
            "webhooks": json.dumps(hooks),
            "data": json.dumps(["planted.run", None, [], {}]),
            "meta": opened,
            "result": opened,
            "exc_info": "text",
            "description": "planted",
            "origin": "planted",
            "worker_name": "planted",
            "group_id": "planted",
            "status": "started",
            "timeout": 1,
            "ttl": 1,
            "result_ttl": 0,
            "failure_ttl": 0,
            "retries_left": 3,
            "number_of_retries": 1,
            "retry_intervals": "[1]",
            "enqueue_at_front_on_retry": 1,
            "repeats_left": 3,
            "repeat_intervals": "[1]",
            "rate_limit_key": "planted",
            "rate_limit_concurrency": 1,
            "dependency_id": "planted",
            "dependency_ids": '["planted"]',
            "allow_dependency_failures": 1,
            "enqueue_at_front": 1,
            **dict.fromkeys(
                ("created_at", "enqueued_at", "started_at", "ended_at", "last_heartbeat"),
                "2020-01-01T00:00:00.000000Z",
            ),
        }

    def plant(self, redis: "Redis") -> None:
        """Write the hashes of all jobs and the keys that RQ derives from the fields."""
        fields: dict[Any, Any] = {**self.fields()}
        for job in (*EVERY, "planted"):
            redis.hset(f"rq:job:{job}", mapping=fields)
            redis.sadd(f"rq:job:{job}:dependents", "planted", "sweep")
            redis.sadd(f"rq:job::{job}:dependencies", "planted")
            for registry in ("ready", "deferred", "scheduled", "failed", "finished"):
                redis.zadd(f"rq:{registry}:iot", {job: 1})
            redis.zadd("rq:wip:iot", {f"{job}:execution": 1})
            redis.rpush("rq:queue:iot:intermediate", job)
            redis.set(f"rq:queue:iot:intermediate:first_seen:{job}", 1)
        redis.sadd("rq:groups", "planted")
        redis.sadd("rq:group:planted", "planted")
        redis.sadd("rq:rl-keys", "planted")
        redis.hset("rq:rl:planted", "concurrency", 1)
        redis.zadd("rq:rl:planted:rate_limited", {"planted": 1})
        redis.rpush(KEYS.job_list, "planted", "os.system", "a b", "drain-999", "drain-x", *EVERY)

    def check(self) -> None:
        """Check that no code ran and no request was sent."""
        assert not self.trace.exists(), self.trace.read_text()
        assert not self.requests


@pytest.fixture
def trap(tmp_path: Path) -> Iterator[Trap]:
    """A running trap."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            made.requests.append(self.path)
            self.send_response(200)
            self.end_headers()

    server = HTTPServer(("127.0.0.1", 0), Handler)
    made = Trap(tmp_path, server)
    with serving(server):
        yield made
        made.check()


@pytest.fixture
def stack(environment: dict[str, str], trap: Trap, tmp_path: Path) -> Iterator[Stack]:
    """A stack whose writers can import the planted module."""
    made = Stack(environment | {"PYTHONPATH": str(trap.folder)}, tmp_path)
    yield made
    made.stop()


def test_every_field_that_rq_knows_is_planted(trap: Trap) -> None:
    """A new field of RQ fails this test until a developer has checked its effects."""
    known = set()
    for method in (Job.to_dict, Job.restore):
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(method)))):
            if isinstance(node, ast.Dict):
                known |= {key.value for key in node.keys if isinstance(key, ast.Constant)}
            elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
                known.add(node.slice.value)
    assert set(trap.fields()) == known - {"unserialized", 0}


def _status(redis: "Redis", job: str) -> bytes | None:
    found = redis.hget(f"rq:job:{job}", "status")
    assert found is None or isinstance(found, bytes)
    return found


def _has_finished(redis: "Redis", job: str) -> bool:
    return _status(redis, job) == b"finished"


def test_successful_jobs_run_no_planted_code(stack: Stack, trap: Trap, sender: Sender) -> None:
    trap.plant(sender.redis)
    sender.redis.lpush(KEYS.job_list, b"\xff")
    for workers in ("rq:workers", "rq:workers:iot"):
        sender.redis.sadd(workers, b"\xff")
    sender.send(PASSWORD)
    stack.start_writer()
    for job in (names.drain_job(0), *names.JOBS):  # the first drain drains the other shards too
        wait_until(partial(_has_finished, sender.redis, job), what=job)
    wait_until(lambda: not sender.waiting(), what="an empty backlog")
    sender.check_all()
    assert not sender.redis.exists("rq:queue:planted")
    wait_until(lambda: not sender.redis.exists(KEYS.job_list), what="an empty queue")


def test_a_writer_is_not_suspended(stack: Stack, sender: Sender) -> None:
    sender.redis.set("rq:suspended", 1)
    sender.send(PASSWORD)
    stack.start_writer()
    wait_until(lambda: not sender.waiting(), what="an empty backlog")


def test_a_failed_job_runs_no_planted_code(
    stack: Stack, trap: Trap, sender: Sender, postgres: psycopg.Connection, tmp_path: Path
) -> None:
    postgres.execute("ALTER TABLE ingest_sessions DROP COLUMN seen_at")
    trap.plant(sender.redis)
    stack.start_writer()
    wait_until(lambda: _status(sender.redis, "retention") == b"failed", what="a failed job")
    log = (tmp_path / "writer-0.log").read_text()
    assert "UndefinedColumn" in log
    assert "dropped an unknown job from the queue: 'os.system'" in log


def test_commands_of_rq_stop_no_job(
    stack: Stack, trap: Trap, sender: Sender, postgres_url: str
) -> None:
    """The commands of RQ affect neither a running job nor the writer."""
    with psycopg.connect(postgres_url) as connection:
        connection.execute("LOCK TABLE ingest_sessions")
        trap.plant(sender.redis)
        writer = stack.start_writer()
        wait_until(lambda: _runs(sender.redis, "retention"), what="the start of the job")
        for command in ("stop-job", "stop-execution", "kill-horse", "shutdown"):
            for channel in _workers(sender.redis):
                message = {"command": command, "job_id": "retention", "execution_id": "x"}
                sender.redis.publish(f"rq:pubsub:{channel}", json.dumps(message))
    wait_until(lambda: _status(sender.redis, "retention") == b"finished", what="the end of the job")
    assert writer.poll() is None
    sender.send(PASSWORD)
    wait_until(lambda: not sender.waiting(), what="an empty backlog")


def test_a_job_of_a_dead_writer_runs_no_planted_code(
    stack: Stack, trap: Trap, sender: Sender, postgres_url: str, tmp_path: Path
) -> None:
    with psycopg.connect(postgres_url) as connection:
        connection.execute("LOCK TABLE ingest_sessions")
        trap.plant(sender.redis)
        died = stack.start_writer()
        wait_until(lambda: _runs(sender.redis, "retention"), what="the start of the job")
        died.kill()
        died.wait()
    trap.plant(sender.redis)
    for execution in cast("list[bytes]", sender.redis.zrange("rq:wip:iot", 0, -1)):
        sender.redis.zadd("rq:wip:iot", {execution: time.time() - 1})
    sender.redis.delete("rq:clean_registries:iot", "rq:clean_groups")
    stack.start_writer()
    wait_until(lambda: not sender.redis.exists("rq:wip:iot"), what="the end of its execution")
    wait_until(lambda: _status(sender.redis, "retention") == b"finished", what="the end of the job")
    log = (tmp_path / "writer-1.log").read_text()
    assert re.search("the job 'retention:.*' did not end: its writer died, or Redis", log)


def _runs(redis: "Redis", job: str) -> bool:
    return redis.hget(f"rq:job:{job}", "worker_name") in {name.encode() for name in _workers(redis)}


def _workers(redis: "Redis") -> list[str]:
    found = redis.smembers("rq:workers")
    return [key.decode().removeprefix("rq:worker:") for key in found if isinstance(key, bytes)]
