"""Readings that identify their device, so that every change is detected."""

import json
from collections.abc import Sequence

NUMBERS = 10**9
"""Maximum number of readings of a device. Device and number form the relative time."""

_EPOCH_US = 1_795_414_643_286_560
_NOTES = ("", "plain", "\u00fc\u20ac\U0001f600", r"\u0000 \\ \" \n", "a" * 40, "[]{},:", "\u00ff")


def _escaped(note: str) -> str:
    return "".join(each if each.isascii() else json.dumps(each)[1:-1] for each in note)


_KEPT_NOTES = tuple(map(_escaped, _NOTES))


def body(device: int, first: int, count: int, passwords: Sequence[str]) -> bytes:
    """Return the body of a request with readings from number `first`, with passwords in turn."""
    rows = [
        f'{{"data":{{"db_password":"{passwords[number % len(passwords)]}",'
        f'"relative_time":{device * NUMBERS + number},'
        f'"interrogator_time":{interrogator_time(number)},'
        f'"freeform":{_freeform(device, number, _NOTES)}}}}}'
        for number in range(first, first + count)
    ]
    return f"[{','.join(rows)}]".encode()


def interrogator_time(number: int) -> int:
    """Return a time that mostly grows, with ties and some steps back."""
    return _EPOCH_US + number // 3 * 3_000 - (number % 11 == 0) * 20_000


def kept_freeform(device: int, number: int) -> str:
    """Return the stored text of a reading's freeform."""
    return _freeform(device, number, _KEPT_NOTES)


def _freeform(device: int, number: int, notes: Sequence[str]) -> str:
    return (
        f'{{"epc96":"{number * 2_654_435_761 % 50:024x}","rssi":{-40 - number * 7 % 45},'
        f'"device":{device},"number":{number},"note":"{notes[number % len(notes)]}"}}'
    )
