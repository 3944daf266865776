"""The states of stores, from the errors of their drivers."""

import psycopg
import pytest

from iot_stores.store_states import state_of


def test_an_sqlstate_that_psycopg_does_not_know_is_a_state_too() -> None:
    """A newer server, a pooler or a trigger may use one. psycopg raises its class's base."""
    error = psycopg.OperationalError("not today")
    error.sqlstate = "57P99"
    state = state_of(error)
    assert state is not None
    assert (state.store, state.code) == ("Postgres", "operational_error")


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("consuming input failed: SSL error: unexpected eof while reading", "away"),
        ("consuming input failed: SSL SYSCALL error: EOF detected", "away"),
        ("the connection is lost: SSL connection has been closed unexpectedly", "away"),
        ("connection failed: could not send SSL negotiation packet: Broken pipe", "away"),
        ("server does not support SSL, but SSL was required", "tls_refused"),
        ("connection failed: SSL error: certificate verify failed", "tls_refused"),
        ("connection failed: SSL error: tlsv1 alert protocol version", "tls_refused"),
        ('root certificate file "/tls/ca.crt" does not exist', "tls_refused"),
        ("FATAL: SSL required", "tls_refused"),
    ],
)
def test_the_end_of_a_connection_with_tls_is_not_a_refusal(message: str, code: str) -> None:
    state = state_of(psycopg.OperationalError(message))
    assert state is not None
    assert state.code == code


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("server login has been failing, try again later (server_login_retry)", "away"),
        ("server login failed: FATAL the database system is starting up", "cannot_connect_now"),
        ("no more connections allowed (max_client_conn)", "too_many_connections"),
    ],
)
def test_errors_of_pgbouncer_are_recognized_by_their_messages(message: str, code: str) -> None:
    state = state_of(psycopg.errors.ProtocolViolation(message))
    assert state is not None
    assert state.code == code
