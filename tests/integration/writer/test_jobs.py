"""The jobs in Redis: the queue holds each job once and runs no other job."""

import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn, cast

import psycopg
import pytest
from redis import Redis
from rq.exceptions import NoSuchJobError, StopRequested
from rq.timeouts import JobTimeoutException
from rq.worker import WorkerStatus

from integration.writer.sending import Sender
from iot_models import names
from iot_writer import jobs, shutdown
from iot_writer.drain.drain import DrainResult
from iot_writer.jobs import KnownJob
from iot_writer.maintenance.sweep import sweep
from iot_writer.rq_worker import DrainWorker
from iot_writer.ticker import EVERY_SECONDS, Ticker
from iot_writer.writer import Writer
from support.counting import redis_commands
from support.keys import KEYS
from support.samples import sample_value
from support.stack import Stack
from support.waiting import wait_until

PASSWORD = b"p"


def queued(redis: "Redis") -> list[str]:
    """Return the ids of the queued jobs."""
    return [job.decode() for job in cast("list[bytes]", redis.lrange(KEYS.job_list, 0, -1))]


def test_a_job_is_built_from_its_id(writer: Writer) -> None:
    for job_id in (*map(names.drain_job, range(256)), *names.JOBS):
        job = KnownJob.fetch(job_id, connection=writer.redis)
        found = jobs.find_job(job_id)
        assert found is not None
        assert (job.func, tuple(job.args), job.kwargs) == (*found, {})
        assert job.func_name == f"iot_writer.jobs.{job.func.__name__}"
    assert not writer.redis.keys("rq:*")


def test_each_job_is_listed() -> None:
    """Writers repair the damaged keys of the jobs in `names.JOBS` only."""
    assert set(jobs._FUNCTIONS) == set(names.JOBS)  # noqa: SLF001 - find_job takes one id
    assert set(EVERY_SECONDS) <= set(names.JOBS)


@pytest.mark.parametrize(
    "job_id",
    ["", "drain-", "drain-01", "drain-256", "drain-1000", "drain--1", "drain-1:x", "drain-1\n",
     "drain-\u0661", "Sweep", "os.system", "a b"],
)  # fmt: skip
def test_an_unknown_id_builds_no_job(job_id: str, writer: Writer) -> None:
    assert jobs.find_job(job_id) is None
    with pytest.raises(NoSuchJobError):
        KnownJob.fetch(job_id, connection=writer.redis)


def test_many_appends_queue_one_drain(sender: Sender) -> None:
    for _ in range(200):
        sender.send(PASSWORD)
    assert queued(sender.redis) == [names.drain_job(sender.shard(PASSWORD))]
    for number in range(100):
        sender.send(b"%d" % number)
    assert len(set(queued(sender.redis))) == len(queued(sender.redis)) <= 8


def test_a_drain_is_queued_again_while_entries_wait(
    sender: Sender, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "current", lambda: writer)
    monkeypatch.setattr(jobs, "JOB_SECONDS", 0)
    monkeypatch.setattr("iot_writer.drain.drain.DRAIN_BYTES", 10_000)
    for _ in range(300):
        sender.send(PASSWORD)
    shard = sender.shard(PASSWORD)
    rounds = 0
    while writer.redis.delete(KEYS.job_list):
        assert jobs.drain(shard) == "stored"
        rounds += 1
    assert rounds > 1
    assert jobs.drain(shard) == "empty"
    sender.check_all()


@pytest.mark.parametrize(
    ("drained", "pause"), [(0.004, 0.011), (0.01, 0.005), (0.014, 0.005), (3.0, 0.005)]
)
def test_the_linger_runs_from_begin_to_begin(
    writer: Writer, monkeypatch: pytest.MonkeyPatch, drained: float, pause: float
) -> None:
    """After a long drain, an idle writer gets its share before the next drain."""
    clock, pauses = [1000.0], list[float]()

    def drain_shards(*_: object) -> DrainResult:
        clock[0] += drained
        return DrainResult()

    monkeypatch.setattr(jobs, "current", lambda: writer)
    monkeypatch.setattr(jobs, "JOB_SECONDS", 0)
    monkeypatch.setattr(writer, "drain_shards", drain_shards)
    monkeypatch.setattr(
        jobs, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=pauses.append)
    )
    monkeypatch.setattr(jobs, "_next_drain_at", 0.0)
    jobs.drain(0)
    assert pauses == []
    jobs.drain(0)
    assert pauses == [pytest.approx(pause)]


def test_the_linger_grows_with_many_entries() -> None:
    rates = [1, 3000, 4500, 6000, 100_000]
    lingers = [jobs.linger_after(rate, 1.0) for rate in rates]
    assert lingers == pytest.approx([0.015, 0.015, 0.0325, 0.05, 0.05])
    assert jobs.linger_after(10, 0.0) == jobs.LINGER_SECONDS


def test_a_busy_shard_is_skipped(
    sender: Sender, writer: Writer, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "current", lambda: writer)
    shard = sender.shard(PASSWORD)
    sender.send(PASSWORD)
    assert jobs.drain(shard) == "stored"
    sender.send(PASSWORD)
    writer.redis.delete(KEYS.job_list)
    with psycopg.connect(postgres_url) as other:
        other.execute("SELECT FROM ingest_offsets FOR UPDATE")
        assert jobs.drain(shard) == "busy"
        assert sender.waiting() == 1
        other.rollback()
    assert queued(writer.redis) == []
    assert jobs.drain(shard) == "stored"
    sender.check_all()


def test_the_sweep_queues_drains_only_for_neglected_shards(sender: Sender) -> None:
    now = _redis_milliseconds(sender)
    passwords = {sender.shard(b"%d" % number): b"%d" % number for number in range(100)}
    for shard in (1, 3):
        sender.send_received(passwords[shard], now - 5000)
    # The clock was set back after this entry, so its age is unknown.
    sender.send_received(passwords[5], now + 60_000)
    assert queued(sender.redis) == []
    sender.send_received(passwords[6], _redis_milliseconds(sender))
    assert sweep(sender.backlog) == 3
    assert queued(sender.redis) == ["drain-1", "drain-3", "drain-5"]
    assert sweep(sender.backlog) == 0
    assert queued(sender.redis) == ["drain-1", "drain-3", "drain-5"]


def _redis_milliseconds(sender: Sender) -> int:
    seconds, micros = sender.redis.time()
    return seconds * 1000 + micros // 1000


def test_many_tickers_queue_each_job_once_per_period(writer: Writer) -> None:
    tickers = [Ticker(writer) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(Ticker.tick, tickers * 3))
    assert sorted(queued(writer.redis)) == sorted(EVERY_SECONDS)
    writer.redis.delete(KEYS.job_list)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(Ticker.tick, tickers))
    assert set(queued(writer.redis)) <= {"sweep"}  # the period of the sweep is short
    for job, seconds in EVERY_SECONDS.items():
        assert -2 < writer.redis.ttl(KEYS.tick(job)) <= seconds
    writer.redis.delete(KEYS.job_list, KEYS.tick("retention"))
    tickers[0].tick()
    assert "retention" in queued(writer.redis)


def test_the_periodic_jobs_do_their_work(
    writer: Writer, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "current", lambda: writer)
    assert jobs.make_partitions() == 3
    assert jobs.make_partitions() == 0
    now = sender.redis.time()[0] * 1000
    sender.send_received(PASSWORD, now - 5000)
    assert jobs.sweep_shards() == 1
    assert jobs.enforce_retention() == 0


def test_a_drain_that_times_out_in_postgres_leaves_no_busy_connection(
    writer: Writer,
    sender: Sender,
    postgres: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next job would fail, because the connection still waits for the earlier statement."""

    def time_out(*_: object) -> NoReturn:
        raise JobTimeoutException

    drain_shards = writer.drain_shards

    def drain_until_the_timeout(shards: Sequence[int]) -> DrainResult:
        writer.postgres()
        signal.setitimer(signal.ITIMER_REAL, 1)
        return drain_shards(shards)

    monkeypatch.setattr(jobs, "current", lambda: writer)
    sender.send(PASSWORD)
    away = sample_value("iot_drains_total", {"outcome": "postgres_away"}) or 0
    previous = signal.signal(signal.SIGALRM, time_out)
    try:
        with monkeypatch.context() as patch, postgres.transaction():
            postgres.execute("LOCK TABLE segments")
            patch.setattr(writer, "drain_shards", drain_until_the_timeout)
            assert jobs.drain(sender.shard(PASSWORD)) == "postgres_away"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert sample_value("iot_drains_total", {"outcome": "postgres_away"}) == away + 1
    assert jobs.drain(sender.shard(PASSWORD)) == "stored"
    sender.check_all()


def worker_without_signal(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> DrainWorker:
    """Return an RQ worker of this process, which has got no signal yet."""
    monkeypatch.setattr(shutdown, "requested", shutdown.ShutdownFlag())
    return DrainWorker(
        [jobs.job_queue(writer.redis, KEYS)], connection=writer.redis, job_class=KnownJob
    )


def test_a_signal_during_a_job_sends_nothing_to_redis(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The main thread may hold the lock of RQ's connection pool."""
    worker = worker_without_signal(writer, monkeypatch)
    worker.set_state(WorkerStatus.BUSY)
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.getsignal(number) for number in numbers]
    try:
        with redis_commands(writer.redis) as counted:
            worker.request_stop(signal.SIGTERM, None)
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)
    assert not counted
    assert shutdown.requested.is_set()


def test_a_writer_stops_even_if_the_error_of_the_signal_handler_is_ignored(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python ignores it in a destructor, for example."""
    worker = worker_without_signal(writer, monkeypatch)
    worker.watch = writer.watch
    shutdown.requested.set()
    with pytest.raises(StopRequested):
        worker.dequeue_job_and_maintain_ttl(1)


def test_two_writers_store_a_load_exactly_once(
    environment: dict[str, str], sender: Sender, postgres_url: str, tmp_path: Path
) -> None:
    passwords = [b"password-%d" % number for number in range(30)]
    stack = Stack(environment, tmp_path)
    stack.start_writer()
    stack.start_writer()
    try:
        wait_until(lambda: sender.redis.scard("rq:workers") == 2, what="both writers")
        for number in range(1500):
            sender.send(passwords[number * 7 % 30], number % 5 + 1)
        wait_until(lambda: not sender.waiting(), what="an empty backlog")
        sender.check_all()
        with psycopg.connect(postgres_url) as other:  # both writers find all shards busy
            other.execute("SELECT FROM ingest_offsets FOR UPDATE")
            for password in passwords:
                sender.send(password)
            wait_until(lambda: not queued(sender.redis), what="drains that skip busy shards")
            assert sender.waiting() == len(passwords)
        wait_until(lambda: not sender.waiting(), what="an empty backlog")
    finally:
        stack.shut_down()
    sender.check_all()
