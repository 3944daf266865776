"""What the Secrets of a new installation hold, and what must be in one that is there already."""

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

# Not every place where a password is handed on bears other characters: a leading dash is an option.
_CHARACTERS = string.ascii_letters + string.digits

_ANEW = "; delete it, and the next run makes it anew"


@dataclass(frozen=True, kw_only=True)
class FirstSecret:
    """A Secret to be made if it is absent."""

    name: str
    keys: Sequence[str]
    """Must be there and not be empty."""
    about: str
    make: Callable[[], Content]
    check: Callable[[Content], object] = dict
    """Raises `IotError` when what stands in those keys is wrong."""
    remedy: str = ""
    """What to do then."""
    derived: bool = False
    """Changed when what stands there is not what `make` gives."""


def keyring(name: str, key: str = KEYRING) -> FirstSecret:
    """The master keys and the pepper."""
    return FirstSecret(
        name=name,
        keys=[key],
        about="The keys of iot-sensor. Delete it, and every reading ever stored is lost for good. "
        "Keep a copy in a safe place.",
        make=lambda: {key: new_keyring_text()},
        check=lambda content: parse_keyring(content[key]),
    )


def writer_keys(name: str, keyring_text: Callable[[], str]) -> FirstSecret:
    """The keys of the writers, derived from the keyring."""
    return FirstSecret(
        name=name,
        keys=[WRITER_KEYS],
        about="The keys of iot-sensor's writers, derived from its keyring. Deleted or changed, it "
        "is derived again at the next install or upgrade.",
        make=lambda: {WRITER_KEYS: writer_keys_text(parse_keyring(keyring_text()))},
        derived=True,
    )


def token_values(name: str, names: Sequence[str]) -> FirstSecret:
    """The first tokens themselves, for people to fetch. Nothing of the service reads it."""
    return FirstSecret(
        name=name,
        keys=names,
        about="The first bearer tokens of iot-sensor, by name. No pod needs them: fetch them, hand "
        "them on, and delete this Secret.",
        make=lambda: {each: new_token() for each in names},
        check=lambda content: tokens_text({each: ["ingest"] for each in names}, content, {}),
        remedy=_ANEW,
    )


def probe(name: str, *, token: bool) -> FirstSecret:
    """What the probe and the canary speak to the service with; without tokens an empty one."""
    return FirstSecret(
        name=name,
        keys=["token", "password"] if token else ["password"],
        about="The token and the password under which iot-sensor's helm test and canary store.",
        make=lambda: {"token": new_token() if token else "", "password": new_password()},
        check=(lambda content: tokens_text({}, {}, content)) if token else dict,
        remedy=_ANEW,
    )


def tokens(name: str, make: Callable[[], Content]) -> FirstSecret:
    """Names, scopes and hashes of the tokens: what the API reads."""
    return FirstSecret(
        name=name,
        keys=[TOKENS],
        about="Who may use iot-sensor: names, scopes and hashes of the bearer tokens. "
        "`iot-sensor tokens` changes it.",
        make=make,
        check=lambda content: parse_tokens(content[TOKENS]),
    )


def redis(name: str, host: str) -> FirstSecret:
    """The password of the chart's own Redis."""
    return _store(name, "Redis", lambda password: f"redis://:{password}@{host}:6379/0")


def postgres(name: str, host: str) -> FirstSecret:
    """The password of the chart's own Postgres."""
    url = "postgresql://iot_sensor:{}@{}:5432/iot_sensor"
    return _store(name, "Postgres", lambda password: url.format(password, host))


def tokens_text(
    scopes: Mapping[str, Sequence[str]], values: Content, probe_content: Content
) -> str:
    """A tokens.json for the tokens that stand in the two Secrets.

    Raises:
        SettingsError: a name, a scope or a token is not in its form.
    """
    text = new_tokens_text()
    for name, granted in scopes.items():
        text, _ = with_token(text, name, granted, token=values[name])
    if probe_content:
        text, _ = with_token(text, PROBE_NAME, PROBE_SCOPES, token=probe_content["token"])
    return text


def new_password() -> str:
    """32 random characters that need no quoting anywhere."""
    return "".join(secrets.choice(_CHARACTERS) for _ in range(32))


def _store(name: str, what: str, url: Callable[[str], str]) -> FirstSecret:
    def make() -> Content:
        password = new_password()
        return {"password": password, "url": url(password)}

    return FirstSecret(
        name=name,
        keys=["password", "url"],
        about=f"The password of iot-sensor's own {what}, which keeps the one it was begun with.",
        make=make,
    )
