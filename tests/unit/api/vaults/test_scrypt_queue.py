"""The queue for scrypts: who waits, who is refused, and the gauge of waiting requests."""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from iot_api.limits.clients import Client
from iot_api.limits.fair_slots import FairSlots, Reservation
from iot_api.vaults import scrypt_queue
from iot_api.vaults.scrypt_queue import MAX_WAITING_PER_CLIENT, ScryptQueue
from iot_api.vaults.tried_passwords import TriedPasswords
from iot_models import metrics
from iot_models.errors import TooManyRequestsError
from support.clock import Clock
from support.samples import sample_value
from support.waiting import wait_until

from .in_memory import LATER, NoGuesses


@pytest.fixture
def queue(guesses: NoGuesses) -> ScryptQueue:
    """An empty queue."""
    return ScryptQueue(guesses, TriedPasswords(guesses))


def waiting() -> float:
    metrics.gauge("iot_scrypts_waiting")
    return sample_value("iot_scrypts_waiting") or 0.0


def test_waiting_requests_are_counted_until_their_turn(queue: ScryptQueue) -> None:
    client, before = Client("192.0.2.1"), waiting()

    def wait() -> None:
        with queue.turn(b"b", client):
            pass

    other = threading.Thread(target=wait)
    with queue.turn(b"a", client):
        assert waiting() == before
        other.start()
        wait_until(lambda: waiting() == before + 1, what="a waiting request")
    other.join()
    assert waiting() == before


def test_a_request_that_moves_to_the_suspects_is_still_counted(
    queue: ScryptQueue, guesses: NoGuesses
) -> None:
    client, before = Client("192.0.2.1"), waiting()
    running, released = threading.Event(), threading.Event()

    def suspect_first() -> None:
        with queue.turn(b"suspect", client):
            running.set()
            released.wait(LATER)

    def become_suspect() -> None:
        with queue.turn(b"guess", client):
            pass

    with queue.turn(b"a", client):
        moved = threading.Thread(target=become_suspect)
        moved.start()
        wait_until(lambda: waiting() == before + 1, what="a waiting request")
        guesses.suspected = True
        first = threading.Thread(target=suspect_first)
        first.start()
        wait_until(lambda: waiting() == before + 2, what="a waiting suspect")
    assert running.wait(LATER)
    wait_until(lambda: queue.waiting == 1, what="the request that moved")
    assert waiting() == before + 1
    released.set()
    first.join()
    moved.join()
    assert waiting() == before


def test_an_admitted_request_gets_its_turn_though_the_queue_fills_up(queue: ScryptQueue) -> None:
    """A refusal would tell that its vault is not open, and count as a guess of an honest client."""
    client, done = Client("192.0.2.1"), list[int]()

    def compute(number: int, reservation: Reservation) -> None:
        for _ in range(2):  # an opening may take several scrypts
            with queue.turn(b"%d" % number, client, reservation=reservation):
                done.append(number)

    with ThreadPoolExecutor() as threads:
        with queue.turn(b"a", client):
            reservation = queue.reserve(client, b"admitted")
            admitted = threads.submit(compute, 0, reservation)
            wait_until(lambda: queue.waiting == 1, what="the admitted request")
            others = [
                queue.reserve(client, b"%d" % each) for each in range(MAX_WAITING_PER_CLIENT - 1)
            ]
            with pytest.raises(TooManyRequestsError):
                queue.reserve(client, b"b")
            with pytest.raises(TooManyRequestsError), queue.turn(b"b", client):
                pass
        admitted.result(LATER)
    assert done == [0, 0]
    for each in others:
        each.cancel()
    assert queue.waiting == 0


def test_a_request_that_moves_to_the_suspects_does_not_shorten_the_estimate(
    monkeypatch: pytest.MonkeyPatch, guesses: NoGuesses
) -> None:
    """Otherwise the queue would admit more requests than it can serve in time."""
    clock, found_out = Clock(), threading.Event()
    monkeypatch.setattr(scrypt_queue, "FairSlots", partial(FairSlots, clock=clock))
    queue = ScryptQueue(guesses, TriedPasswords(guesses))
    flood, device = Client("flood"), Client("device")

    def guess() -> None:
        with queue.turn(b"guess", flood):
            pass

    guesses.suspects = (  # type: ignore[method-assign] # changes during the test
        lambda client: client is flood and found_out.is_set()
    )
    with ThreadPoolExecutor() as threads:
        with queue.turn(b"a", device):
            clock.now += 14
            guessed = threads.submit(guess)
            wait_until(lambda: queue.waiting == 1, what="a waiting guess")
            found_out.set()
        guessed.result(LATER)
    # The estimate is 80 % of 14 s: the guess had one turn, which took no time.
    with queue.turn(b"b", device), pytest.raises(TooManyRequestsError):
        queue.reserve(device, b"c")
