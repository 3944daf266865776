"""A full queue for scrypts tells nobody which vaults are open, unless it is counted as a guess."""

import json
import threading

from redis import Redis

from integration.api.asking import JSON, Api, row
from integration.api.conftest import MakeApi
from support.keys import KEYS
from support.waiting import wait_until

ATTACKER = "192.0.2.66"
OWN_VAULTS = 60
"""More than may wait: one scrypt runs and 24 of a client wait."""


def _status(api: Api, password: str, address: str, method: str = "POST") -> int:
    body = json.dumps({"data": row(password)["data"]})
    headers = {**JSON, "X-Forwarded-For": address}
    return api.ask(method, "/api/iot", body, headers).status_code


def test_passwords_of_own_vaults_do_not_help_to_test_other_passwords(
    make_api: MakeApi, redis: "Redis"
) -> None:
    """An attacker whose requests all name passwords of its own vaults is no suspect."""
    settings = {"scrypt_log2_n": 14, "trusted_proxies": 1, "guess_limit": 1000}
    earlier, api = make_api(**settings), make_api(**settings)
    own = [f"own {number}" for number in range(OWN_VAULTS)]
    assert earlier.put([row(password) for password in own[:50]]).status_code == 201
    assert earlier.put([row(password) for password in own[50:]]).status_code == 201
    assert api.put(row("open"), headers={"X-Forwarded-For": "192.0.2.1"}).status_code == 201
    fill = [threading.Thread(target=_status, args=(api, each, ATTACKER)) for each in own]
    told_apart, refused, number = 0, 0, 0
    for thread in fill:
        thread.start()
    while any(thread.is_alive() for thread in fill):
        number += 1
        right = _status(api, "open", ATTACKER, method="PUT" if number % 2 else "POST")
        wrong = _status(api, f"wrong {number}", ATTACKER)
        refused += (right, wrong) == (429, 429)
        told_apart += right != wrong or wrong == 200
        if right < 300:
            break  # from now on, the attacker may know this password
    for thread in fill:
        thread.join()
    counted = int(redis.get(KEYS.guesses(ATTACKER)) or 0)
    assert told_apart <= counted
    assert refused > 0, "the queue was never full"
    wait_until(lambda: _status(api, "open", ATTACKER) == 200, what="room in the queue")
