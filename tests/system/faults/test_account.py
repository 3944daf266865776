"""The account detects every kind of damage."""

import pytest

from system.faults.account import Account, Judgement, Request, Row
from system.faults.readings import NUMBERS, interrogator_time, kept_freeform

PASSWORDS = (0, 1)


def _requests() -> list[Request]:
    """Return three requests of device 0. The second request is not acknowledged."""
    return [
        Request(0, 0, 4, PASSWORDS, 0.0, 0.1, 201),
        Request(0, 4, 2, (0,), 0.2, 0.3, 0),
        Request(0, 6, 3, (0,), 0.4, 0.5, 201),
    ]


def _row(number: int, *, reading_id: int | None = None, freeform: str | None = None) -> Row:
    return Row(
        id=reading_id or 1000 + number,
        relative_timestamp=number,
        interrogator_timestamp=interrogator_time(number),
        freeform=kept_freeform(0, number) if freeform is None else freeform,
    )


def _judge(of_0: list[Row], of_1: list[Row]) -> Judgement:
    account = Account([_requests()])
    for password, rows in enumerate((of_0, of_1)):
        account.enter(password, sorted(rows, key=lambda row: (row.interrogator_timestamp, row.id)))
    return account.close()


def _rows(*numbers: int) -> list[Row]:
    return [_row(number) for number in numbers]


@pytest.mark.parametrize("between", [(), (4, 5)])
def test_complete_readings_have_no_faults(between: tuple[int, ...]) -> None:
    judgement = _judge(_rows(0, 2, *between, 6, 7, 8), _rows(1, 3))
    assert set(judgement.faults().values()) == {0}, judgement
    assert (judgement.sent, judgement.acknowledged) == (9, 7)
    assert judgement.stored == 7 + len(between)


def test_a_missing_reading_is_lost() -> None:
    assert _judge(_rows(0, 2, 6, 8), _rows(1, 3)).lost == 1


def test_a_repeated_reading_is_doubled() -> None:
    again = _row(7, reading_id=2000)
    assert _judge([*_rows(0, 2, 6, 7, 8), again], _rows(1, 3)).doubled == 1
    unacknowledged = _row(4, reading_id=2000)
    assert _judge([*_rows(0, 2, 4, 5, 6, 7, 8), unacknowledged], _rows(1, 3)).doubled == 1


def test_a_changed_reading_is_altered() -> None:
    assert _judge([*_rows(0, 2, 6, 7), _row(8, freeform="{}")], _rows(1, 3)).altered == 1


def test_a_reading_of_another_password_is_altered() -> None:
    judgement = _judge(_rows(0, 2, 6, 7, 8, 3), _rows(1))
    assert (judgement.altered, judgement.lost) == (1, 1)


@pytest.mark.parametrize("number", [9, NUMBERS])
def test_a_reading_that_was_not_sent_is_altered(number: int) -> None:
    assert _judge([*_rows(0, 2, 6, 7, 8), _row(number)], _rows(1, 3)).altered == 1


def test_a_request_stored_in_part_is_torn() -> None:
    assert _judge(_rows(0, 2, 4, 6, 7, 8), _rows(1, 3)).torn == 1


def test_ids_out_of_order_within_a_request_are_counted() -> None:
    rows = [*_rows(0, 2, 6, 7), _row(8, reading_id=999)]
    assert _judge(rows, _rows(1, 3)).out_of_order > 0


def test_ids_out_of_order_between_requests_are_counted() -> None:
    late = [_row(0, reading_id=2000), _row(2, reading_id=2002)]
    assert _judge([*late, *_rows(6, 7, 8)], _rows(1, 3)).out_of_order == 3


def test_held_readings_may_be_stored_later() -> None:
    late = [_row(0, reading_id=2000), _row(2, reading_id=2002)]
    for span, out_of_order in (((0.0, 0.2), 0), ((0.2, 0.9), 3)):
        account = Account([_requests()], [span])
        account.enter(0, [late[0], late[1], *_rows(6, 7, 8)])
        account.enter(1, _rows(1, 3))
        assert account.close().out_of_order == out_of_order


def test_a_response_out_of_order_is_counted() -> None:
    account = Account([_requests()])
    account.enter(0, _rows(6, 0))
    assert account.judgement.out_of_order == 1


@pytest.mark.parametrize(
    ("recent", "misplaced"),
    [
        (_rows(6, 8), 0),
        (_rows(6, 6), 1),
        ([_row(6), _row(6, reading_id=2000)], 1),
        (_rows(5), 1),
    ],
)
def test_recent_readings_must_equal_the_stored_ones(recent: list[Row], misplaced: int) -> None:
    account = Account([_requests()])
    account.enter(0, _rows(0, 2, 6, 7, 8))
    account.check_recent(recent)
    assert account.judgement.misplaced == misplaced
