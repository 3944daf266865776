"""The Secrets of a new installation: their content, and the checks of existing ones."""

import secrets
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from iot_cipher.keyring import new_keyring_text, parse_keyring
from iot_cipher.tokens import new_token, new_tokens_text, parse_tokens, with_token
from iot_cipher.writer_keys import writer_keys_text

Content = Mapping[str, str]

KEYRING, WRITER_KEYS, TOKENS = "keyring.json", "writer-keys.json", "tokens.json"
PROBE_NAME, PROBE_SCOPES = "probe", ("ingest", "read")

# Letters and digits need no quoting anywhere. A leading dash, for example, could begin an option.
_CHARACTERS = string.ascii_letters + string.digits

_RECREATE = "; delete the Secret, and the next run creates it again"


@dataclass(frozen=True, kw_only=True)
class FirstSecret:
    """A Secret that is created if it is missing."""

    name: str
    keys: Sequence[str]
    """Keys that the Secret must have, each with a value that is not empty."""
    about: str
    make: Callable[[], Content]
    check: Callable[[Content], object] = dict
    """Takes the content of an existing Secret, and raises `IotError` if the content is invalid."""
    remedy: str = ""
    """What to do if an existing Secret is invalid: appended to the error message."""
    derived: bool = False
    """Whether the content of an existing Secret is replaced by the result of the field `make`."""


def keyring(name: str, key: str = KEYRING) -> FirstSecret:
    """Return the Secret of the keyring: master keys and pepper."""
    return FirstSecret(
        name=name,
        keys=[key],
        about="The keys of iot-sensor. Without them every stored reading is lost for good. "
        "Keep a copy in a safe place.",
        make=lambda: {key: new_keyring_text()},
        check=lambda content: parse_keyring(content[key]),
    )


def writer_keys(name: str, keyring_text: Callable[[], str]) -> FirstSecret:
    """Return the Secret of the writers' keys, which are derived from the keyring."""
    return FirstSecret(
        name=name,
        keys=[WRITER_KEYS],
        about="The keys of iot-sensor's writers, derived from its keyring. If deleted or changed, "
        "they are derived again at the next install or upgrade.",
        make=lambda: {WRITER_KEYS: writer_keys_text(parse_keyring(keyring_text()))},
        derived=True,
    )


def token_values(name: str, names: Sequence[str]) -> FirstSecret:
    """Return the Secret of the first tokens, for operators. No pod reads it."""
    return FirstSecret(
        name=name,
        keys=names,
        about="The first bearer tokens of iot-sensor, by name. No pod needs them: read them, pass "
        "them on, and delete this Secret.",
        make=lambda: {token: new_token() for token in names},
        check=lambda content: tokens_text({token: ["ingest"] for token in names}, content, {}),
        remedy=_RECREATE,
    )


def probe(name: str, *, token: bool) -> FirstSecret:
    """Return the Secret of probe and canary. Without `token`, its token is empty."""
    return FirstSecret(
        name=name,
        keys=["token", "password"] if token else ["password"],
        about="The token and the password that iot-sensor's helm test and canary use.",
        make=lambda: {"token": new_token() if token else "", "password": new_password()},
        check=(lambda content: tokens_text({}, {}, content)) if token else dict,
        remedy=_RECREATE,
    )


def tokens(name: str, make: Callable[[], Content]) -> FirstSecret:
    """Return the Secret with names, scopes and hashes of the tokens, which the API reads.

    `make` returns the content of a new Secret: a mapping with one key, `tokens.json`, whose value
    is the JSON text that lists the tokens.
    """
    return FirstSecret(
        name=name,
        keys=[TOKENS],
        about="Who may use iot-sensor: names, scopes and hashes of the bearer tokens. "
        "`iot-sensor tokens` changes it.",
        make=make,
        check=lambda content: parse_tokens(content[TOKENS]),
    )


def redis(name: str, host: str) -> FirstSecret:
    """Return the Secret with the password and the URL of the chart's Redis."""
    return _store(name, "Redis", lambda password: f"redis://:{password}@{host}:6379/0")


def postgres(name: str, host: str) -> FirstSecret:
    """Return the Secret with the password and the URL of the chart's Postgres."""
    url = "postgresql://iot_sensor:{}@{}:5432/iot_sensor"
    return _store(name, "Postgres", lambda password: url.format(password, host))


def tokens_text(
    scopes: Mapping[str, Sequence[str]], values: Content, probe_content: Content
) -> str:
    """Return the text of tokens.json with the first tokens (`values`) and the token of the probe.

    Raises:
        SettingsError: a name, a scope or a token is invalid.
    """
    text = new_tokens_text()
    for name, granted in scopes.items():
        text, _ = with_token(text, name, granted, token=values[name])
    if probe_content:
        text, _ = with_token(text, PROBE_NAME, PROBE_SCOPES, token=probe_content["token"])
    return text


def new_password() -> str:
    """Return 32 random letters and digits."""
    return "".join(secrets.choice(_CHARACTERS) for _ in range(32))


def _store(name: str, what: str, url: Callable[[str], str]) -> FirstSecret:
    def make() -> Content:
        password = new_password()
        return {"password": password, "url": url(password)}

    return FirstSecret(
        name=name,
        keys=["password", "url"],
        about=f"The password of iot-sensor's own {what}. Do not change it: {what} keeps the first.",
        make=make,
    )
