"""Times in the forms of old clients, compared with exact fractions."""

import math
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import ROUND_DOWN, Context, Decimal
from fractions import Fraction

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from iot_models.reading import INT64_MAX, INT64_MIN
from iot_models.times import parse_time, parse_time_or_date

SPACES = st.sampled_from(["", " ", "  ", "\t", "\n"])
DIGITS = st.text("0123456789", min_size=1, max_size=25)
EXPONENTS = st.one_of(
    st.just(""),
    st.builds("{}{}{}".format, st.sampled_from("eE"), st.sampled_from(["", "+", "-"]),
              st.integers(0, 30)),
)  # fmt: skip
NUMBERS = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", "+", "-"]),
    st.one_of(
        DIGITS,
        DIGITS.map("{}.".format),
        DIGITS.map(".{}".format),
        st.builds("{}.{}".format, DIGITS, DIGITS),
    ),
    EXPONENTS,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
Parse = Callable[[int | float | str], int]
BOTH = pytest.mark.parametrize("parse", [parse_time, parse_time_or_date])


def within_64_bits(value: int) -> bool:
    return -(2**63) <= value < 2**63


def micros(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


@given(st.integers())
@example(INT64_MIN)
@example(INT64_MAX)
@example(INT64_MIN - 1)
@example(INT64_MAX + 1)
def test_integers_are_exact(value: int) -> None:
    for form in (value, str(value), f" {value} "):
        for parse in (parse_time, parse_time_or_date):
            if within_64_bits(value):
                assert parse(form) == value
            else:
                with pytest.raises(ValueError, match="beyond 64 bits"):
                    parse(form)


@given(st.floats(allow_nan=False, allow_infinity=False))
@example(-0.5)
@example(1.763877e15)
@example(2.0**63)
@example(-(2.0**63))
def test_fractions_are_truncated_toward_zero(value: float) -> None:
    expected = math.trunc(Fraction(value))
    if within_64_bits(expected):
        assert parse_time(value) == expected
    else:
        with pytest.raises(ValueError, match="beyond 64 bits"):
            parse_time(value)


@given(SPACES, NUMBERS, SPACES)
@example("", "1.763877e+15", "")
@example(" ", "201", " ")
@example("", "4.99999999999999999999999e0", "")
@example("", "9.223372036854775807e18", "")
@example("", "-9223372036854775808.9", "")
@example("", "9223372036854775807.9", "")
@example("", "9223372036854775808", "")
@example("", "-9223372036854775809", "")
def test_numeric_strings_are_exact(before: str, number: str, after: str) -> None:
    expected = math.trunc(Fraction(number.replace(".e", ".0e").replace(".E", ".0E")))
    for parse in (parse_time, parse_time_or_date):
        if within_64_bits(expected):
            assert parse(before + number + after) == expected
        else:
            with pytest.raises(ValueError, match="beyond 64 bits"):
                parse(before + number + after)


@BOTH
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1.763877e+15", 1_763_877_000_000_000),
        ("1e5", 100_000),
        (".5", 0),
        ("-.5", 0),
        ("-1.9", -1),
        ("+3", 3),
        ("5.", 5),
        (" 12 ", 12),
        ("1234567890123456789e0", 1_234_567_890_123_456_789),
        ("0" * 100 + "7", 7),
        ("0e999999", 0),
        ("7e-999999", 0),
        ("0e999999999", 0),
        ("0e" + "9" * 100, 0),
        ("-0.0e+0999999999999", 0),
        ("7e-999999999", 0),
        ("7e-" + "9" * 100_000, 0),
        ("7e" + "0" * 100_000 + "2", 700),
        ("0." + "0" * 100_000 + "7e100001", 7),
        ("7" + "0" * 100_000 + "e-100000", 7),
        ("-0", 0),
        ("-0.0", 0),
        ("9007199254740993.0", 9_007_199_254_740_993),
        ("1.710754759123456789e18", 1_710_754_759_123_456_789),
        ("1710754759.123456789", 1_710_754_759),
        ("9007199254740993.000000000000000000000", 9_007_199_254_740_993),
    ],
)
def test_numeric_strings_that_firmware_prints(parse: Parse, text: str, expected: int) -> None:
    assert parse(text) == expected


@BOTH
@pytest.mark.parametrize(
    "text",
    [
        "1e19",
        "-1e19",
        "1e400",
        "1e999999",
        "1e999999999",
        "-1e9999999999",
        "1e" + "9" * 100_000,
        "9" * 100,
        "9" * 100_000,
    ],
)
def test_numbers_beyond_64_bits_are_named(parse: Parse, text: str) -> None:
    with pytest.raises(ValueError, match=r"^is beyond 64 bits$"):
        parse(text)


@BOTH
@pytest.mark.parametrize(
    "text",
    ["", " ", "+", "-", ".", "-.", "e5", "1e", "1e+", "1.2.3", "1 2", "1_000", "0x10", "--1", "+-1",
     "nan", "NaN", "inf", "-Infinity", "1e1e1", "12a", "true", "1,5", "½", "\0", "1\x00"],
)  # fmt: skip
def test_malformed_numbers_are_refused(parse: Parse, text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a number|neither a number nor a date"):
        parse(text)


@BOTH
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused(parse: Parse, value: float) -> None:
    with pytest.raises(ValueError, match=r"^is not a number$"):
        parse(value)


@pytest.mark.parametrize("text", ["3/18/2014 10:59:19.123456 AM", "2014-03-18T10:59:19Z"])
def test_parse_time_refuses_dates(text: str) -> None:
    with pytest.raises(ValueError, match=r"^is not a number$"):
        parse_time(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3/18/2014 10:59:19.123456 AM", 1_395_140_359_123_456),
        ("3/18/2014 10:59:19.123456 PM", 1_395_183_559_123_456),
        ("03/18/2014 10:59:19 am", 1_395_140_359_000_000),
        (" 3/18/2014 10:59:19.5 AM ", 1_395_140_359_500_000),
        ("3/18/2014 12:00:00 AM", 1_395_100_800_000_000),
        ("2014-03-18T10:59:19Z", 1_395_140_359_000_000),
        ("2014-03-18t10:59:19z", 1_395_140_359_000_000),
        ("2014-03-18 10:59:19", 1_395_140_359_000_000),
        ("2014-03-18T10:59:19.123456Z", 1_395_140_359_123_456),
        ("2014-03-18T10:59:19.123456789Z", 1_395_140_359_123_456),
        ("2014-03-18T10:59:19.5-07:00", 1_395_165_559_500_000),
        ("2014-03-18T10:59:19+05:30", 1_395_120_559_000_000),
        ("2014-03-18 10:59:19.1234567", 1_395_140_359_123_456),
        ("2014-03-18 10:59:19.123456789+00:00", 1_395_140_359_123_456),
        ("2014-03-18T10:59:19.99999999999999999999-07:00", 1_395_165_559_999_999),
        ("3/18/2014 10:59:19.1234567 AM", 1_395_140_359_123_456),
        ("3/18/2014 10:59:19.999999999999 PM", 1_395_183_559_999_999),
        ("2016-12-31T23:59:60Z", 1_483_228_800_000_000),
        ("2016-12-31t23:59:60z", 1_483_228_800_000_000),
        ("2016-12-31 23:59:60", 1_483_228_800_000_000),
        ("2016-12-31T23:59:60.5Z", 1_483_228_800_500_000),
        ("2016-12-31T23:59:60.999999999+00:00", 1_483_228_800_999_999),
        ("2016-12-31T15:59:60-08:00", 1_483_228_800_000_000),
        ("2017-01-01T05:29:60.25+05:30", 1_483_228_800_250_000),
        ("1990-12-31T23:59:60Z", 662_688_000_000_000),
        ("1969-12-31T23:59:60Z", 0),
        ("9999-12-31T23:59:60Z", 253_402_300_800_000_000),
        ("12/31/2016 11:59:60 PM", 1_483_228_800_000_000),
        ("12/31/2016 11:59:60.1234567 PM", 1_483_228_800_123_456),
        ("1970-01-01T00:00:00Z", 0),
        ("1969-12-31T23:59:59.999999Z", -1),
        ("0001-01-01T00:00:00+14:00", -62_135_596_800_000_000 - 14 * 3_600_000_000),
    ],
)
def test_dates_are_parsed(text: str, expected: int) -> None:
    assert parse_time_or_date(text) == expected


@given(
    st.datetimes(timezones=st.just(UTC)),
    st.integers(-23 * 60, 23 * 60),
    st.sampled_from("Tt "),
)
def test_dates_of_rfc_3339(moment: datetime, offset: int, separator: str) -> None:
    zone = timezone(timedelta(minutes=offset))
    local = moment.replace(tzinfo=zone)
    assert parse_time_or_date(local.isoformat(sep=separator)) == micros(local)
    text = moment.replace(tzinfo=None).isoformat(sep=separator)
    assert parse_time_or_date(text) == parse_time_or_date(text + "Z") == micros(moment)


@given(st.datetimes(datetime(1000, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001 -- zone beside
def test_dates_of_the_old_server(moment: datetime) -> None:
    hour, half = (moment.hour % 12) or 12, "AM" if moment.hour < 12 else "PM"
    text = (
        f"{moment.month}/{moment.day}/{moment.year} "
        f"{hour}:{moment.minute:02}:{moment.second:02}.{moment.microsecond:06} {half}"
    )
    assert parse_time_or_date(text) == micros(moment)


@pytest.mark.parametrize(
    "text",
    ["2014-03-18", "2014-13-18T10:59:19Z", "2014-02-30T10:59:19Z", "2014-03-18T25:00:00Z",
     "2014-03-18X10:59:19Z", "2014-03-18T10:59:19Q", "13/18/2014 10:59:19 AM",
     "2016-12-31T23:59:61Z", "2016-12-31T23:58:60Z", "2016-12-31T22:59:60Z",
     "2016-12-31T23:59:60-08:00", "2016-12-31T23:60:60Z", "12/31/2016 11:59:60 AM",
     "2016-12-31T23:59:60Q", "12/31/2016 11:59:61 PM", "3/18/2014 13:59:19 AM",
     "3/18/2014 10:59:19", "3/18/2014", "today", "10:59:19"],
)  # fmt: skip
def test_malformed_dates_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^is neither a number nor a date$"):
        parse_time_or_date(text)


@given(
    st.one_of(st.text(), st.text("0123456789+-.eE:/TZ AMP"), st.text().map("2014-03-18T".__add__))
)
def test_random_strings_are_a_time_or_a_value_error(text: str) -> None:
    for parse in (parse_time, parse_time_or_date):
        found, sentence = 0, "is a time"
        try:
            found = parse(text)
        except ValueError as error:
            sentence = str(error)
        assert within_64_bits(found)
        assert sentence.startswith("is ")  # our message, not one of Python's


def _strptime(text: str) -> int | None:
    text = re.sub(r"(\.\d{6})\d+", r"\1", text)
    for form in ("%m/%d/%Y %I:%M:%S.%f %p", "%m/%d/%Y %I:%M:%S %p"):
        try:
            return micros(datetime.strptime(text.strip(), form).replace(tzinfo=UTC))
        except ValueError:
            continue
    return None


_TWO_DIGITS = st.integers(0, 62).flatmap(lambda n: st.sampled_from([str(n), f"{n:02}", f"{n:2}"]))


@given(
    st.builds(
        "{}/{}/{}{}{}:{}:{}{}{}{}".format,
        _TWO_DIGITS,
        _TWO_DIGITS,
        st.sampled_from(["2014", "0001", "0000", "9999", "14", "2015"]),
        st.sampled_from([" ", "  ", "\t", ""]),
        _TWO_DIGITS,
        _TWO_DIGITS,
        _TWO_DIGITS,
        st.sampled_from(["", ".1", ".123456", ".000001", ".1234567", "."]),
        st.sampled_from([" ", "  ", ""]),
        st.sampled_from(["AM", "PM", "am", "pM", "M", ""]),
    )
)
@example("2/29/2015 1:00:00 AM")
@example("2/29/2016 12:00:00 AM")
@example("12/31/2016 11:59:61 PM")
def test_dates_of_old_clients_are_parsed_like_strptime(text: str) -> None:
    assume(not re.search(r":60\b", text))  # leap seconds have a test below
    expected = _strptime(text)
    if expected is None:
        with pytest.raises(ValueError, match="neither a number nor a date"):
            parse_time_or_date(text)
    else:
        assert parse_time_or_date(text) == expected


@given(
    st.datetimes(datetime(1000, 1, 1)),  # noqa: DTZ001 -- zone beside
    st.text("0123456789", min_size=7, max_size=30),
    st.sampled_from(["Z", "+00:00", "-07:00", "+05:30", ""]),
    st.sampled_from("Tt "),
)
def test_digits_beyond_microseconds_are_truncated(
    moment: datetime, digits: str, zone: str, separator: str
) -> None:
    second = moment.replace(microsecond=0)
    for text, short in (
        (second.isoformat(sep=separator), "{}.{}" + zone),
        (f"{second:%m/%d/%Y %I:%M:%S}", f"{{}}.{{}} {second:%p}"),
    ):
        exact = parse_time_or_date(short.format(text, digits))
        assert exact == parse_time_or_date(short.format(text, digits[:6]))


@given(st.dates(), st.integers(-23 * 60, 23 * 60), st.text("0123456789", max_size=9))
def test_a_leap_second_is_the_first_second_of_the_next_day(
    day: date, offset: int, digits: str
) -> None:
    assume(date.min < day < date.max)
    last = datetime(day.year, day.month, day.day, 23, 59, 59, tzinfo=UTC)
    local = last.astimezone(timezone(timedelta(minutes=offset)))
    fraction = f".{digits}" if digits else ""
    zone = local.isoformat()[19:]
    text = f"{local:%H:%M}:60{fraction}{zone}"
    expected = micros(last) + 1_000_000 + int(digits[:6].ljust(6, "0"))
    assert parse_time_or_date(f"{local.date().isoformat()}T{text}") == expected


@given(
    st.decimals(allow_nan=False, allow_infinity=False)
    | st.builds(Decimal.scaleb, st.integers(INT64_MIN, INT64_MAX).map(Decimal), st.integers(-9, 9)),
    st.sampled_from(["{}", "{:e}", "{:f}"]),
)
def test_decimals_are_exact(value: Decimal, form: str) -> None:
    assume(abs(value.adjusted()) < 400)
    text = form.format(value)
    whole = value.quantize(1, ROUND_DOWN, Context(prec=1000))
    if within_64_bits(int(whole)):
        assert parse_time(text) == int(whole)
    else:
        with pytest.raises(ValueError, match="beyond 64 bits"):
            parse_time(text)


@BOTH
@pytest.mark.parametrize(
    "text",
    ["1" * 10**6 + "x", "." + "1" * 10**6 + "x", "1e" + "0" * 10**6 + "x", "1." + "0" * 10**6 + "x",
     "1" * 10**6 + "e" + "1" * 10**6 + "x"],
)  # fmt: skip
def test_malformed_numbers_are_refused_in_linear_time(parse: Parse, text: str) -> None:
    """A parser that is quadratic in the digits takes 30 s for 20,000 digits."""
    with pytest.raises(ValueError, match=r"is not a number|neither a number nor a date"):
        parse(text)
