"""A certificate that is replaced on disk is served within a minute, and no request is dropped."""

import os
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from iot_sensor_client import NoResponseError, Response
from support.certificates import MountedSecret, Pair, new_pair
from support.tls_stack import BODY, JSON, Sender, TlsStack
from support.waiting import wait_until

WITHIN = 60
"""Seconds until the renewed certificate is served."""


@pytest.fixture
def old() -> Pair:
    """The first certificate."""
    return new_pair(ends=30)


@pytest.fixture
def new() -> Pair:
    """The renewed certificate."""
    return new_pair(ends=90)


@pytest.fixture
def secret(tmp_path: Path, old: Pair) -> MountedSecret:
    """The mounted certificate."""
    return MountedSecret(tmp_path / "tls", old)


@pytest.fixture
def stack(
    environment: dict[str, str], tmp_path: Path, secret: MountedSecret, old: Pair, new: Pair
) -> Iterator[TlsStack]:
    """The API in two processes, with https."""
    ours = {
        "IOT_API_WORKERS": "2",
        "IOT_TLS_CERTIFICATE": str(secret.certificate),
        "IOT_TLS_KEY": str(secret.key),
    }
    made = TlsStack(environment | ours, tmp_path, metrics=True)
    trusted = (old.certificate + new.certificate).decode()
    made.tls = ssl.create_default_context(cadata=trusted)
    try:
        made.start_api()
        yield made
    finally:
        made.stop()


def expiry(stack: TlsStack) -> float:
    """Return the metric of the time at which the served certificate expires."""

    def metrics() -> bytes:
        with suppress(NoResponseError):  # their server starts with the API, and takes longer
            return stack.request("GET", "/metrics", port=stack.metrics_port).body
        return b""

    text = wait_until(metrics, what="metrics").decode()
    (family,) = (
        each
        for each in text_string_to_metric_families(text)
        if each.name == "iot_tls_certificate_not_after_timestamp_seconds"
    )
    (sample,) = family.samples
    return float(sample.value)


def test_a_renewed_certificate_is_served_and_no_request_is_dropped(
    stack: TlsStack, secret: MountedSecret, old: Pair, new: Pair
) -> None:
    assert stack.serves_only(old)
    assert expiry(stack) == old.not_after.timestamp()
    with ExitStack() as opened:
        senders = [Sender(stack, keep_alive=keep_alive) for keep_alive in (True, False)]
        for sender in senders:
            opened.callback(sender.stop)
        wait_until(lambda: all(sender.statuses for sender in senders), what="the first answers")
        began = time.monotonic()
        secret.replace(new.certificate, new.key)
        wait_until(lambda: stack.serves_only(new), seconds=WITHIN, what="the new certificate")
        assert time.monotonic() - began < WITHIN
        before = [len(sender.statuses) for sender in senders]
        wait_until(
            lambda: all(
                len(sender.statuses) > count + 5
                for sender, count in zip(senders, before, strict=True)
            ),
            what="answers after the renewal",
        )
    for sender in senders:
        assert not sender.failures
        assert set(sender.statuses) == {201}
    assert expiry(stack) == new.not_after.timestamp()


def test_an_invalid_pair_changes_nothing(
    stack: TlsStack, secret: MountedSecret, old: Pair, new: Pair
) -> None:
    """Both workers refuse the pair, and a worker that starts then waits for a valid one."""
    wait_until(lambda: stack.log().count("certificate was loaded") == 2, seconds=WITHIN)
    secret.replace(new.certificate, old.key)
    wait_until(lambda: stack.log().count("certificate was not loaded") >= 2, seconds=WITHIN)
    assert stack.serves_only(old)
    first, second = stack.workers()
    os.kill(first, 9)
    wait_until(lambda: "accepts no connection" in stack.log(), seconds=WITHIN)
    assert stack.serves_only(old, {second})
    assert stack.request("PUT", "/api/iot", BODY, JSON).status == 201
    secret.replace(new.certificate, new.key)
    wait_until(lambda: stack.serves_only(new), seconds=WITHIN, what="the new certificate")
    for line in old.key.decode().splitlines()[1:-1] + new.key.decode().splitlines()[1:-1]:
        assert line not in stack.log()


def test_https_says_so_to_browsers(stack: TlsStack) -> None:
    """Also where the worker itself answers; not on a 201."""
    sent = stack.request("PUT", "/api/iot", BODY, JSON)
    assert sent.status == 201
    assert "strict-transport-security" not in names(sent)
    for path, headers, status in (
        ("/healthz", {}, 200),
        ("/nothing", {}, 404),
        ("/healthz", {"Transfer-Encoding": "x"}, 501),
    ):
        answer = stack.request("GET", path, headers=headers)
        assert answer.status == status
        assert "strict-transport-security" in names(answer)


def names(answer: Response) -> set[str]:
    """Return the names of the headers."""
    return {name.lower() for name in answer.headers}
