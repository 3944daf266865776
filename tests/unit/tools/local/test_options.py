"""An error names the invalid make variable."""

import time
from pathlib import Path

import pytest

from iot_models.errors import SettingsError
from iot_tools.local.options import parse


def given(tmp_path: Path, **changes: str) -> dict[str, str]:
    good = {"PORT": "5000", "DEVICES": "1", "TLS": "0", "STARTED": ""}
    return {**good, "DATA_DIR": str(tmp_path / "data"), **changes}


def test_valid_values_are_parsed(tmp_path: Path) -> None:
    options = parse(given(tmp_path, PORT="65535", DEVICES="0", TLS="1"))
    assert (options.port, options.devices, options.tls) == (65535, 0, True)
    assert options.data_dir == tmp_path / "data"
    assert options.data_dir.stat().st_mode & 0o777 == 0o700
    assert abs(options.started - time.time()) < 60


@pytest.mark.parametrize("text", ["1763877000.250000000", "1763877000.N", "1763877000"])
def test_the_start_time_in_the_forms_of_date(tmp_path: Path, text: str) -> None:
    assert int(parse(given(tmp_path, STARTED=text)).started) == 1763877000


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("PORT", "abc", "PORT must be an integer from 1 to 65535, not 'abc'"),
        ("PORT", "0", "PORT must be an integer from 1 to 65535, not '0'"),
        ("PORT", "65536", "PORT must be an integer from 1 to 65535, not '65536'"),
        ("PORT", "9" * 5000, "PORT must be an integer from 1 to 65535"),
        ("PORT", "", "PORT must be an integer from 1 to 65535, not ''"),
        ("PORT", "²", "PORT must be an integer from 1 to 65535, not '²'"),
        ("DEVICES", "-1", "DEVICES must be an integer from 0 to 1000, not '-1'"),
        ("DEVICES", "1.5", "DEVICES must be an integer from 0 to 1000, not '1.5'"),
        ("TLS", "yes", "TLS must be 0 or 1, not 'yes'"),
        ("DATA_DIR", " ", "DATA_DIR must name a directory"),
    ],
)
def test_invalid_values_are_named(tmp_path: Path, name: str, text: str, sentence: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(given(tmp_path, **{name: text}))
    assert str(caught.value).startswith(sentence)


def test_a_data_dir_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"DATA_DIR .*file can't be used"):
        parse(given(tmp_path, DATA_DIR=str(tmp_path / "file")))


def test_an_invalid_value_creates_no_directory(tmp_path: Path) -> None:
    with pytest.raises(SettingsError):
        parse(given(tmp_path, TLS="2"))
    assert not (tmp_path / "data").exists()
