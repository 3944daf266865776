"""The TLS options of commands: what they mean, and what is said about a wrong one."""

import argparse
import ssl
from pathlib import Path

import pytest

from iot_models.errors import SettingsError
from iot_tools.cli.main import main
from iot_tools.cli.tls_options import add_tls, tls_of
from support.certificates import Authority, new_pair

COMMANDS = {
    "probe": ["probe"],
    "canary": ["canary"],
    "soak": ["soak"],
    "simulate": ["simulate"],
    "send": ["send", "--password-file", "p", "x=1"],
    "follow": ["follow", "--password-file", "p"],
    "vault password": ["vault", "password", "--password-file", "p", "--new-password-file", "p"],
    "vault erase": ["vault", "erase", "--yes", "--password-file", "p"],
}


def parsed(*words: str, url: str = "https://x") -> argparse.Namespace:
    """Parse the options."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--url")
    add_tls(parser)
    return parser.parse_args(["--url", url, *words])


def test_without_options_the_system_decides() -> None:
    assert tls_of(parsed()) is None


def test_the_files_are_loaded(tmp_path: Path) -> None:
    authority, pair = Authority(), new_pair()
    (tmp_path / "ca.crt").write_bytes(authority.certificate)
    (tmp_path / "both.pem").write_bytes(pair.certificate + pair.key)
    context = tls_of(
        parsed("--ca-file", str(tmp_path / "ca.crt"), "--cert-file", str(tmp_path / "both.pem"))
    )
    assert context is not None
    assert context.get_ca_certs(binary_form=True) == [
        ssl.PEM_cert_to_DER_cert(authority.certificate.decode())
    ]
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ca-file", "/missing"], "--ca-file /missing: No such file"),
        (["--cert-file", "/missing"], "--cert-file and --key-file: No such file"),
        (["--key-file", "/missing"], "--key-file needs --cert-file"),
    ],
)
def test_a_wrong_file_is_named(words: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        tls_of(parsed(*words))


def test_the_options_need_https() -> None:
    with pytest.raises(SettingsError, match="need an https URL"):
        tls_of(parsed("--ca-file", "/missing", url="http://x"))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_that_calls_the_api_has_the_options(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p").write_text("secret", encoding="utf-8")
    code = main([*COMMANDS[name], "--url", "https://127.0.0.1:1", "--cert-file", "/missing"])
    assert code != 0
    assert "--cert-file and --key-file: No such file" in capsys.readouterr().err
