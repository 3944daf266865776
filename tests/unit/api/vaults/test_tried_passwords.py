"""A refused password counts once as a guess, unless the client has used its vault."""

import dataclasses

from iot_api.limits.clients import Client
from iot_api.vaults.tried_passwords import MAX_FOUND, MAX_FOUND_OF_SENDER, TriedPasswords
from iot_models.errors import Refusal, TooManyRequestsError, UnavailableError
from support.clock import Clock

from .in_memory import NoGuesses

ONE, OTHER, SUSPECT = Client("192.0.2.1"), Client("192.0.2.2"), Client("suspect")
REFUSED = TooManyRequestsError("busy", retry_after=1, reason=Refusal.OPENING_QUEUE)


def test_a_refused_password_counts_once_a_minute_for_each_client(guesses: NoGuesses) -> None:
    clock = Clock()
    tried = TriedPasswords(guesses, clock)
    for _ in range(3):
        for key in (b"a", b"b"):
            tried.count_unanswered(ONE, key, REFUSED)
        tried.count_unanswered(OTHER, b"a", REFUSED)
    assert sorted(guesses.unanswered) == [ONE.name] * 2 + [OTHER.name]
    clock.now += 60
    tried.count_unanswered(ONE, b"a", REFUSED)
    assert guesses.unanswered.count(ONE.name) == 3


def test_a_password_whose_vault_was_used_does_not_count(guesses: NoGuesses) -> None:
    tried = TriedPasswords(guesses)
    tried.note_found(ONE, [b"a"])
    assert tried.has_found(ONE, [b"a"])
    assert not tried.has_found(ONE, [b"a", b"b"])
    assert not tried.has_found(OTHER, [b"a"])
    for client in (ONE, OTHER):
        tried.count_unanswered(client, b"a", REFUSED)
    assert guesses.unanswered == [OTHER.name]


def test_while_a_store_is_away_only_suspects_are_counted(guesses: NoGuesses) -> None:
    tried = TriedPasswords(guesses)
    for client in (ONE, SUSPECT):
        tried.count_unanswered(client, b"a", UnavailableError("Postgres is away"))
    assert guesses.unanswered == [SUSPECT.name]


def test_pairs_that_were_used_long_ago_are_forgotten(guesses: NoGuesses) -> None:
    tried = TriedPasswords(guesses)
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
