"""A refused password counts once as a guess, unless the client has used its vault."""

import dataclasses

from redis import Redis

from iot_api.limits.clients import Client
from iot_api.limits.guess_limit import GuessLimit
from iot_api.vaults.tried_passwords import MAX_FOUND, MAX_FOUND_OF_SENDER, TriedPasswords
from iot_models.errors import Refusal, TooManyRequestsError, UnavailableError
from iot_models.names import KeyNames
from support.clock import Clock

ONE, OTHER = Client("192.0.2.1"), Client("192.0.2.2")
REFUSED = TooManyRequestsError("busy", retry_after=1, reason=Refusal.OPENING_QUEUE)


class Guesses(GuessLimit):
    """Records whose passwords were counted."""

    def __init__(self) -> None:
        super().__init__(Redis(), KeyNames(""), limit=100)
        self.counted: list[str] = []
        self.suspected: set[str] = set()

    def count_unanswered(self, client: Client) -> None:
        self.counted.append(client.name)

    def suspects(self, client: Client) -> bool:
        return client.name in self.suspected


def test_a_refused_password_counts_once_a_minute_for_each_client() -> None:
    clock, guesses = Clock(), Guesses()
    tried = TriedPasswords(guesses, clock)
    for _ in range(3):
        for key in (b"a", b"b"):
            tried.count_unanswered(ONE, key, REFUSED)
        tried.count_unanswered(OTHER, b"a", REFUSED)
    assert sorted(guesses.counted) == [ONE.name] * 2 + [OTHER.name]
    clock.now += 60
    tried.count_unanswered(ONE, b"a", REFUSED)
    assert guesses.counted.count(ONE.name) == 3


def test_a_password_whose_vault_was_used_does_not_count() -> None:
    guesses = Guesses()
    tried = TriedPasswords(guesses)
    tried.note_found(ONE, [b"a"])
    assert tried.has_found(ONE, [b"a"])
    assert not tried.has_found(ONE, [b"a", b"b"])
    assert not tried.has_found(OTHER, [b"a"])
    for client in (ONE, OTHER):
        tried.count_unanswered(client, b"a", REFUSED)
    assert guesses.counted == [OTHER.name]


def test_while_a_store_is_away_only_suspects_are_counted() -> None:
    guesses = Guesses()
    tried = TriedPasswords(guesses)
    guesses.suspected.add(OTHER.name)
    for client in (ONE, OTHER):
        tried.count_unanswered(client, b"a", UnavailableError("Postgres is away"))
    assert guesses.counted == [OTHER.name]


def test_pairs_that_were_used_long_ago_are_forgotten() -> None:
    tried = TriedPasswords(Guesses())
    tried.note_found(OTHER, [b"in use", b"unused"])
    for sender in range(MAX_FOUND // MAX_FOUND_OF_SENDER + 1):
        inventor = Client("", proxy=f"198.51.100.{sender}")
        for name in range(MAX_FOUND_OF_SENDER + 1):
            tried.note_found(dataclasses.replace(inventor, name=f"{name}"), [b"own"])
        assert not tried.has_found(dataclasses.replace(inventor, name="0"), [b"own"])
        tried.note_found(OTHER, [b"in use"])
    assert tried.has_found(OTHER, [b"in use"])
    first = Client("1", proxy="198.51.100.0")
    assert not tried.has_found(first, [b"own"])
    for number in range(MAX_FOUND_OF_SENDER):
        tried.note_found(OTHER, [b"%d" % number, b"in use"])
    assert tried.has_found(OTHER, [b"in use"])
    assert not tried.has_found(OTHER, [b"unused"])
