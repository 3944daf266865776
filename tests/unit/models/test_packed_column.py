"""Packing of columns, compared with numbers packed one by one."""

import random
from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iot_models.errors import FormatError
from iot_models.packed_column import byte_planes, pack_column
from iot_models.reading import INT64, INT64_MAX, INT64_MIN, RECEIPTS, int64s
from iot_models.segment import DELTA, RAW, PackedNumbers

NUMBERS = st.sampled_from(
    [INT64_MIN, INT64_MIN + 1, -(2**62), -1, 0, 1, 2**62, INT64_MAX]
) | st.integers(INT64_MIN, INT64_MAX)
COLUMNS = st.lists(NUMBERS, min_size=1, max_size=8)


@given(COLUMNS | COLUMNS.map(sorted))
def test_any_column_is_unpacked_as_it_was_packed(numbers: list[int]) -> None:
    packed = pack_column(int64s(numbers).tobytes())
    assert list(PackedNumbers(packed.data)) == numbers
    differences = [later - earlier for earlier, later in pairwise(numbers)]
    fits = all(INT64_MIN <= difference <= INT64_MAX for difference in differences)
    assert packed.data[:1] == (DELTA if fits else RAW)
    assert packed.is_sorted == (fits and numbers == sorted(numbers))


@given(
    st.lists(st.integers(1, 63), min_size=1, max_size=200),
    st.integers(0, 2**64),
    st.sampled_from([INT64, RECEIPTS]),
)
def test_a_number_that_is_not_allowed_is_a_format_error(
    powers: list[int], seed: int, allowed: range
) -> None:
    """Sizes of differences are drawn, so that sums stay just within the range, or just leave it."""
    chance = random.Random(seed)
    differences = [chance.choice([-1, 1]) * chance.getrandbits(power) for power in powers]
    numbers = list(accumulate(differences))
    data = DELTA + byte_planes(int64s(differences).tobytes())
    if min(numbers) in allowed and max(numbers) in allowed:
        assert list(PackedNumbers(data, allowed)) == numbers
    else:
        with pytest.raises(FormatError):
            PackedNumbers(data, allowed)
    column = PackedNumbers(data, None)
    assert column.ascends() == all(each >= 0 for each in differences[1:])
    assert column.repeats() == (0 in differences[1:])


@given(COLUMNS, st.sampled_from([INT64, RECEIPTS]))
def test_plain_numbers_are_checked_too(numbers: list[int], allowed: range) -> None:
    data = RAW + byte_planes(int64s(numbers).tobytes())
    if all(number in allowed for number in numbers):
        assert list(PackedNumbers(data, allowed)) == numbers
    else:
        with pytest.raises(FormatError):
            PackedNumbers(data, allowed)


@pytest.mark.parametrize("count", [20_000, 9_999, 1_000, 10_000, 3])
def test_long_columns_of_any_length(count: int) -> None:
    numbers = [1_700_000_000_000_000 + 1000 * place for place in range(count)]
    packed = pack_column(int64s(numbers).tobytes())
    assert packed.is_sorted
    assert list(PackedNumbers(packed.data)) == numbers
    numbers[count // 2] -= 1001
    packed = pack_column(int64s(numbers).tobytes())
    assert not packed.is_sorted
    assert list(PackedNumbers(packed.data)) == numbers
