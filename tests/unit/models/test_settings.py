"""Settings come from one variable each, and an error names the variable."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from iot_models.errors import SettingsError
from iot_models.names import KeyNames
from iot_models.setting_values import variable
from iot_models.settings import (
    Settings,
    describe,
    drop_stray_libpq_variables,
    load,
    load_key_names,
)

REQUIRED = {
    "IOT_POSTGRES_URL": "postgresql://user:hunter2@db/iot",
    "IOT_KEYRING_FILE": "/keys/keyring.json",
}
FIELDS = dataclasses.fields(Settings)
NUMBERS = [each for each in FIELDS if each.type is int]
SECRETS = [each for each in FIELDS if each.metadata["secret"]]
MUTUAL_TLS = {
    "IOT_TLS_CERTIFICATE": "c",
    "IOT_TLS_KEY": "k",
    "IOT_TLS_CLIENT_CA_FILE": "a",
    "IOT_TOKENS_FILE": "t",
}


def name_of(each: "dataclasses.Field[Any]") -> str:
    return each.name


def test_defaults() -> None:
    settings = load(REQUIRED)
    assert settings.postgres_url == REQUIRED["IOT_POSTGRES_URL"]
    assert settings.keyring_file == REQUIRED["IOT_KEYRING_FILE"]
    for each in FIELDS:
        if each.default is not dataclasses.MISSING:
            assert getattr(settings, each.name) == each.default


def test_every_default_is_a_valid_value() -> None:
    texts = {variable(e.name): str(e.default) for e in FIELDS if variable(e.name) not in REQUIRED}
    assert load(REQUIRED | texts) == load(REQUIRED)


@pytest.mark.parametrize("each", FIELDS, ids=name_of)
def test_each_setting_is_read_from_its_variable(each: "dataclasses.Field[Any]") -> None:
    name = f"IOT_{each.name.upper()}"
    texts = {
        "log_level": "DEBUG",
        "log_format": "json",
        "bind": "127.0.0.1:5001",
        "anonymous_scopes": "ingest",
        "cors_origins": "https://one.example",
        "redis_key_prefix": "berlin:",
    }
    value: Any = texts.get(each.name, "other")
    if each.type is int:
        value = each.metadata["minimum"] if each.default != each.metadata["minimum"] else 1
    settings = load(_required(each) | {name: str(value)})
    assert getattr(settings, each.name) == value
    assert value != each.default


def _required(each: "dataclasses.Field[Any]") -> dict[str, str]:
    """Return the variables that a setting needs."""
    return REQUIRED | MUTUAL_TLS if each.name.startswith("tls") else REQUIRED


@pytest.mark.parametrize("name", REQUIRED)
def test_a_missing_or_empty_required_variable_is_named(name: str) -> None:
    missing = {key: value for key, value in REQUIRED.items() if key != name}
    for environ in (missing, missing | {name: ""}):
        with pytest.raises(SettingsError, match=f"^{name} is not set: "):
            load(environ)


@pytest.mark.parametrize("each", NUMBERS, ids=name_of)
def test_numbers_must_be_within_their_limits(each: "dataclasses.Field[Any]") -> None:
    name, low, high = variable(each.name), each.metadata["minimum"], each.metadata["maximum"]
    assert low <= each.default <= high
    for value in (low, high):
        assert getattr(load(_required(each) | {name: str(value)}), each.name) == value
    for value in (low - 1, high + 1):
        with pytest.raises(SettingsError, match=f"^{name} must be from {low} to {high}, not "):
            load(REQUIRED | {name: str(value)})


@pytest.mark.parametrize("text", ["", "many", "1.5", "1e3", "0x10", "9" * 5000])
@pytest.mark.parametrize("each", NUMBERS, ids=name_of)
def test_an_invalid_number_is_refused(each: "dataclasses.Field[Any]", text: str) -> None:
    with pytest.raises(SettingsError, match=f"^{variable(each.name)} must be a whole number$"):
        load(REQUIRED | {variable(each.name): text})


@pytest.mark.parametrize("each", SECRETS, ids=name_of)
def test_a_secret_may_be_read_from_a_file(each: "dataclasses.Field[Any]", tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(" from-a-file\n", encoding="utf-8")
    name = variable(each.name)
    environ = {key: value for key, value in REQUIRED.items() if key != name}
    assert getattr(load(environ | {f"{name}_FILE": str(path)}), each.name) == "from-a-file"
    both = environ | {name: "from-the-variable", f"{name}_FILE": str(path)}
    assert getattr(load(both), each.name) == "from-a-file"


def test_the_secrets_are_the_urls() -> None:
    assert [each.name for each in SECRETS] == [
        "redis_url",
        "hot_window_redis_url",
        "postgres_url",
    ]


def test_an_unreadable_secret_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^IOT_REDIS_URL_FILE can't be read: No such file"):
        load(REQUIRED | {"IOT_REDIS_URL_FILE": str(tmp_path / "nothing")})
    with pytest.raises(SettingsError, match=r"^IOT_REDIS_URL_FILE can't be read: Is a directory"):
        load(REQUIRED | {"IOT_REDIS_URL_FILE": str(tmp_path)})
    path = tmp_path / "binary"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match=r"^IOT_REDIS_URL_FILE can't be read: .* UTF-8"):
        load(REQUIRED | {"IOT_REDIS_URL_FILE": str(path)})


@pytest.mark.parametrize("each", SECRETS, ids=name_of)
def test_a_secret_must_be_utf_8(each: "dataclasses.Field[Any]") -> None:
    """As Python decodes a byte of Latin-1 in the environment."""
    name = variable(each.name)
    with pytest.raises(SettingsError, match=f"^{name} is not UTF-8 text$"):
        load(REQUIRED | {name: "redis://:hunter\udce9@db/0"})


def test_only_secrets_have_a_file_variable(tmp_path: Path) -> None:
    path = tmp_path / "level"
    path.write_text("DEBUG", encoding="utf-8")
    assert load(REQUIRED | {"IOT_LOG_LEVEL_FILE": str(path)}).log_level == "INFO"


@pytest.mark.parametrize("name", ["IOT_TLS_CERTIFICATE", "IOT_TLS_KEY"])
def test_certificate_and_key_are_required_together(name: str) -> None:
    with pytest.raises(SettingsError, match="IOT_TLS_CERTIFICATE and IOT_TLS_KEY"):
        load(REQUIRED | {name: "file"})
    both = load(REQUIRED | {"IOT_TLS_CERTIFICATE": "c", "IOT_TLS_KEY": "k"})
    assert (both.tls_certificate, both.tls_key) == ("c", "k")


@pytest.mark.parametrize("name", ["IOT_TLS_CERTIFICATE", "IOT_TOKENS_FILE"])
def test_client_certificates_need_https_and_tokens(name: str) -> None:
    given = {key: value for key, value in MUTUAL_TLS.items() if key != name}
    if name == "IOT_TLS_CERTIFICATE":
        del given["IOT_TLS_KEY"]
    with pytest.raises(SettingsError, match="IOT_TLS_CLIENT_CA_FILE needs IOT_TLS_CERTIFICATE"):
        load(REQUIRED | given)


def test_required_client_certificates_need_an_authority() -> None:
    given = MUTUAL_TLS | {"IOT_TLS_CLIENT_REQUIRED": "1"}
    assert load(REQUIRED | given).tls_client_required
    del given["IOT_TLS_CLIENT_CA_FILE"]
    with pytest.raises(SettingsError, match="needs IOT_TLS_CLIENT_CA_FILE"):
        load(REQUIRED | given)


@pytest.mark.parametrize("level", ["DEBUG", "INFO", "WARNING", "ERROR"])
def test_log_levels_are_accepted(level: str) -> None:
    assert load(REQUIRED | {"IOT_LOG_LEVEL": level}).log_level == level


@pytest.mark.parametrize("level", ["", "info", "LOUD"])
def test_an_unknown_log_level_is_refused(level: str) -> None:
    with pytest.raises(SettingsError, match=r"^IOT_LOG_LEVEL must be one of"):
        load(REQUIRED | {"IOT_LOG_LEVEL": level})


@pytest.mark.parametrize("text", ["", "ingest", "ingest,read", " read , audit ,"])
def test_valid_anonymous_scopes_are_accepted(text: str) -> None:
    assert load(REQUIRED | {"IOT_ANONYMOUS_SCOPES": text}).anonymous_scopes == text


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("write", "unknown scope; the scopes are ingest, read, audit, admin"),
        ("INGEST", "unknown scope"),
        ("ingest read", "unknown scope"),
        ("ingest,ingest", "the scope ingest is given twice"),
        ("admin", "the scope admin always requires a token"),
    ],
)
def test_invalid_anonymous_scopes_are_refused(text: str, sentence: str) -> None:
    with pytest.raises(SettingsError, match=f"^IOT_ANONYMOUS_SCOPES: {sentence}"):
        load(REQUIRED | {"IOT_ANONYMOUS_SCOPES": text})


@pytest.mark.parametrize("prefix", ["", "berlin:", "berlin:2:", "a-b_c.d:", "x" * 63 + ":"])
def test_valid_key_prefixes_are_accepted(prefix: str) -> None:
    environ = REQUIRED | {"IOT_REDIS_KEY_PREFIX": prefix}
    assert load(environ).redis_key_prefix == prefix
    assert load_key_names(environ) == KeyNames(prefix)


@pytest.mark.parametrize(
    "prefix",
    ["berlin", ":", "a::", "iot:", "rq:", "a:iot:", "rq:b:", "{a}:", "ä:", "a b:", "x" * 64 + ":"],
)
def test_an_invalid_key_prefix_is_refused(prefix: str) -> None:
    environ = REQUIRED | {"IOT_REDIS_KEY_PREFIX": prefix}
    for read in (load, load_key_names):
        with pytest.raises(
            SettingsError, match=r"^IOT_REDIS_KEY_PREFIX: a prefix must have at most 64 characters"
        ):
            read(environ)


def test_the_environment_is_read_when_load_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in REQUIRED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("IOT_SHARDS", "17")
    assert load().shards == 17


def test_settings_are_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        load(REQUIRED).shards = 3  # type: ignore[misc]


def test_repr_shows_no_password() -> None:
    shown = repr(load(REQUIRED | {"IOT_REDIS_URL": "redis://:hunter2@cache/0"}))
    assert "hunter2" not in shown
    assert "shards=8" in shown


def test_describe_lists_every_setting() -> None:
    rows = describe()
    assert [row[0] for row in rows] == [f"IOT_{each.name.upper()}" for each in FIELDS]
    assert {row[0] for row in rows if row[1] == "(required)"} == set(REQUIRED)
    assert ("IOT_API_WORKERS", "2", "Number of API processes.") in rows
    assert all(meaning.endswith(".") for _, _, meaning in rows)


def test_libpq_variables_that_change_a_url_are_dropped() -> None:
    kept = {"PGPASSWORD": "p", "PGPASSFILE": "/f", "PGSSLMODE": "verify-full", "IOT_SHARDS": "8"}
    stray = {"PGHOSTADDR": "192.0.2.1", "PGSERVICE": "none", "PGOPTIONS": "-c a=b", "PGUSER": "u"}
    environ = kept | stray
    drop_stray_libpq_variables(environ)
    assert environ == kept
