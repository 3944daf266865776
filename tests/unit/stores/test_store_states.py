"""The states of stores, from the errors of their drivers."""

import psycopg

from iot_stores.store_states import state_of


def test_an_sqlstate_that_psycopg_does_not_know_is_a_state_too() -> None:
    """A newer server, a pooler or a trigger may use one. psycopg raises its class's base."""
    error = psycopg.OperationalError("not today")
    error.sqlstate = "57P99"
    state = state_of(error)
    assert state is not None
    assert (state.store, state.code) == ("Postgres", "operational_error")
