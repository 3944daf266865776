"""The arguments of `iot-sensor secrets create`."""

import argparse
import re
from collections.abc import Callable

from iot_models.errors import IotError, SettingsError
from iot_tools.cli.secret_options import add_namespace

_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


def add_secrets(parser: argparse.ArgumentParser) -> None:
    """Add `secrets create`."""
    actions = parser.add_subparsers(required=True, metavar="action")
    create = actions.add_parser("create", help="create the Secrets that do not exist yet")
    add_namespace(create)
    create.add_argument("--wait", type=float, default=60.0, metavar="SECONDS",
                        help="time to wait for the Kubernetes API server (default 60)")  # fmt: skip
    for option, meaning in (
        ("--keyring", "Secret for the master keys and the pepper"),
        ("--writer-keys", "Secret for the writers' keys; derived again if the keyring has changed"),
        ("--tokens", "Secret for names, scopes and hashes of the tokens"),
        ("--token-values", "Secret for the first tokens themselves"),
        ("--probe", "Secret for the token and password of `helm test` and the canary"),
        ("--redis", "Secret for the password of the chart's Redis"),
        ("--postgres", "Secret for the password of the chart's Postgres"),
    ):
        create.add_argument(option, type=_secret, metavar="SECRET", help=meaning)
    create.add_argument(
        "--redis-host", metavar="HOST", help="host in the URL that the Secret of --redis holds"
    )
    create.add_argument(
        "--postgres-host",
        metavar="HOST",
        help="host in the URL that the Secret of --postgres holds",
    )
    create.add_argument("--keyring-from", metavar="SECRET:KEY", type=_pair(":", "SECRET:KEY"),
                        help="existing keyring from which to derive the writers' keys")  # fmt: skip
    lists = (
        ("--label", "K=V", "=", "label for the new Secrets"),
        ("--token", "NAME=SCOPE[,SCOPE]", "=", "name and scopes of a first token"),
        ("--require", "SECRET:KEY", ":", "fail unless this existing Secret has this key"),
        ("--ports", "SECRET:KEY=PORT[,PORT]", "=", "fail if the URL in this key has another port"),
    )
    for option, form, separator, meaning in lists:
        create.add_argument(option, action="append", default=[], metavar=form, help=meaning,
                            type=_pair(separator, form))  # fmt: skip
    create.set_defaults(command=_create)


def _create(parsed: argparse.Namespace) -> int:
    scopes = _scopes(parsed)
    for one, other in (("redis", "redis_host"), ("postgres", "postgres_host"),
                       ("tokens", "token_values")):  # fmt: skip
        if (getattr(parsed, one) is None) != (getattr(parsed, other) is None):
            raise SettingsError(f"give both --{one} and --{other.replace('_', '-')}, or neither")
    if scopes and parsed.tokens is None:
        raise SettingsError(
            "--token needs --tokens and --token-values, which name the Secrets for the tokens"
        )

    if parsed.writer_keys and bool(parsed.keyring) == bool(parsed.keyring_from):
        raise SettingsError("--writer-keys needs either --keyring or --keyring-from")
    if parsed.keyring_from and not parsed.writer_keys:
        raise SettingsError("--keyring-from needs --writer-keys, the Secret for the derived keys")

    from .connection import connect  # noqa: PLC0415 -- loads the kubernetes package
    from .secret_creation import SecretCreation, SecretRequest  # noqa: PLC0415
    from .secret_objects import SecretObjects  # noqa: PLC0415

    request = SecretRequest(
        keyring=parsed.keyring,
        writer_keys=parsed.writer_keys,
        keyring_from=parsed.keyring_from,
        tokens=parsed.tokens,
        token_values=parsed.token_values,
        scopes=scopes,
        probe=parsed.probe,
        redis=parsed.redis and (parsed.redis, parsed.redis_host),
        postgres=parsed.postgres and (parsed.postgres, parsed.postgres_host),
        required=parsed.require,
        ports=_ports(parsed),
        labels=dict(parsed.label),
    )
    secrets = SecretObjects(connect(parsed.namespace), patience=parsed.wait)
    SecretCreation(secrets, request).run()
    return 0


def _scopes(parsed: argparse.Namespace) -> dict[str, list[str]]:
    """Return the scopes of each token that `--token` asks to create, by name.

    Raises:
        SettingsError: a name or a scope is invalid, or a name is given twice.
    """
    from iot_cipher.tokens import new_token  # noqa: PLC0415 -- only where it is needed

    from .first_secrets import tokens_text  # noqa: PLC0415

    scopes = {name: granted.split(",") for name, granted in parsed.token}
    values = {name: new_token() for name in scopes}
    try:
        tokens_text(scopes, values, {"token": new_token()} if parsed.probe else {})
    except IotError as error:
        raise SettingsError(f"--token: {error}") from None
    names = [name for name, _ in parsed.token]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SettingsError(f"--token: a name is given twice: {', '.join(twice)}")
    return scopes


def _ports(parsed: argparse.Namespace) -> list[tuple[tuple[str, str], frozenset[int]]]:
    """Return a pair for each `--ports`: (Secret, key in the Secret), and a set of ports.

    The URL under this key may have only these ports, because the network policies open no others.

    Raises:
        SettingsError: an option does not have the form SECRET:KEY=PORT[,PORT].
    """
    found = []
    for reference, listed in parsed.ports:
        secret, colon, key = reference.partition(":")
        ports = listed.split(",")
        if not (secret and colon and key and all(port.isdecimal() for port in ports)):
            raise SettingsError(f"--ports must be SECRET:KEY=PORT[,PORT], not {reference}={listed}")
        found.append(((secret, key), frozenset(map(int, ports))))
    return found


def _secret(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a valid name of a Secret")
    return text


def _pair(separator: str, form: str) -> Callable[[str], tuple[str, str]]:
    def split(text: str) -> tuple[str, str]:
        first, found, second = text.partition(separator)
        if not (first and found and second):
            raise argparse.ArgumentTypeError(f"must be {form}, not {text!r}")
        return first, second

    return split
