"""The URL of Postgres: an error names the variable, and no part of the password."""

import pytest

from iot_models.errors import SettingsError
from iot_stores.postgres import url_parts


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://iot:secret@x/y@db/iot",
        "postgresql://iot:secret/x@db/iot",
        "postgresql://iot:%zzsecret@db/iot",
        "postgresql://iot:secret%ff@db/iot",
        "postgresql://iot:secret\udcff@db/iot",
    ],
)
def test_an_invalid_url_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match=r"^IOT_POSTGRES_URL is not a libpq URL") as raised:
        url_parts(url)
    assert "secret" not in str(raised.value)
    assert raised.value.__context__ is None
