"""Child processes get the settings that a cluster would give them."""

from pathlib import Path

import pytest
from cryptography import x509

from iot_models.errors import SettingsError
from iot_tools.local.options import Options
from iot_tools.local.parts import Parts


def parts(directory: Path, *, tls: bool = False, **given: str) -> Parts:
    options = Options(port=5000, data_dir=directory, devices=1, tls=tls, started=0.0)
    return Parts(options, given)


def test_every_part_gets_its_settings(tmp_path: Path) -> None:
    settings = parts(tmp_path).settings()
    assert settings.bind == "127.0.0.1:5000"
    assert settings.keyring_file == str(tmp_path / "keyring")
    assert settings.redis_url.startswith("redis://:")
    assert settings.tls_certificate == ""
    assert settings.api_metrics_port != settings.writer_metrics_port


def test_the_writer_gets_writer_keys(tmp_path: Path) -> None:
    mine = parts(tmp_path, IOT_POSTGRES_URL="postgresql:", IOT_REDIS_URL="redis://example")
    given = {
        child.name: (child.environment or {})["IOT_KEYRING_FILE"]
        for child in (mine.writer().program, mine.api(lambda: True).program)
    }
    assert given == {"writer": str(tmp_path / "writer-keys"), "api": str(tmp_path / "keyring")}


def test_variables_of_the_caller_win(tmp_path: Path) -> None:
    url = "postgresql://example/iot"
    mine = parts(tmp_path, IOT_POSTGRES_URL=url, IOT_BIND="[::1]:5001", IOT_SHARDS="3")
    assert mine.postgres is None
    assert mine.redis is not None
    settings = mine.settings()
    assert (settings.postgres_url, settings.bind, settings.shards) == (url, "[::1]:5001", 3)


def test_a_url_in_a_file_counts_as_set(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("redis://example:6379/0\n", encoding="utf-8")
    mine = parts(tmp_path, IOT_REDIS_URL_FILE=str(tmp_path / "url"))
    assert mine.redis is None
    assert mine.settings().redis_url == "redis://example:6379/0"


def test_an_empty_variable_counts_as_not_set(tmp_path: Path) -> None:
    mine = parts(tmp_path, IOT_POSTGRES_URL="", IOT_REDIS_URL="", IOT_SHARDS="")
    assert mine.postgres is not None
    assert mine.redis is not None
    assert mine.settings().shards == 8


def test_an_invalid_variable_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="IOT_SHARDS must be a whole number"):
        parts(tmp_path, IOT_SHARDS="many").settings()


def test_tls_makes_a_certificate_unless_one_is_given(tmp_path: Path) -> None:
    settings = parts(tmp_path, tls=True).settings()
    assert Path(settings.tls_certificate).exists()
    assert Path(settings.tls_key).exists()
    parts(tmp_path, tls=True, IOT_BIND="192.0.2.7:5000", IOT_TLS_CLIENT_CA_FILE="ca.pem")
    made = x509.load_pem_x509_certificate(Path(settings.tls_certificate).read_bytes())
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "192.0.2.7" in map(str, names.get_values_for_type(x509.IPAddress))
    given = {"IOT_TLS_CERTIFICATE": "mine.pem", "IOT_TLS_KEY": "mine.key"}
    assert parts(tmp_path, tls=True, **given).settings().tls_certificate == "mine.pem"


def test_a_large_log_is_rotated(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    with (logs / "api.log").open("wb") as file:
        file.truncate(30 * 2**20)
    (logs / "writer.log").write_text("short", encoding="utf-8")
    parts(tmp_path)
    assert sorted(path.name for path in logs.iterdir()) == ["api.log.1", "writer.log"]
