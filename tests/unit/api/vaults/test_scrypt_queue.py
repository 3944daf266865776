"""The gauge of waiting scrypts counts requests without a turn."""

import threading

from redis import Redis

from iot_api.limits.clients import Client
from iot_api.limits.guess_limit import GuessLimit
from iot_api.vaults.scrypt_queue import ScryptQueue
from iot_models import metrics
from iot_models.names import KeyNames
from support.samples import sample_value
from support.waiting import wait_until


def waiting() -> float:
    metrics.gauge("iot_scrypts_waiting")
    return sample_value("iot_scrypts_waiting") or 0.0


def test_waiting_requests_are_counted_until_their_turn() -> None:
    # The client of Redis never connects: these requests send no unknown password.
    queue = ScryptQueue(GuessLimit(Redis(), KeyNames(""), limit=100))
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
