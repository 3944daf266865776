"""The Secrets that the secrets hook makes and requires, from its arguments."""

from collections.abc import Iterator
from itertools import pairwise

from chart.release import Object, Release

_MAKES = {
    "--keyring": {"keyring.json"},
    "--writer-keys": {"writer-keys.json"},
    "--tokens": {"tokens.json"},
    "--probe": {"token", "password"},
    "--redis": {"password", "url"},
    "--postgres": {"password", "url"},
}


def arguments(container: Object) -> list[str]:
    """Return command and arguments of a container."""
    return [*(container.get("command") or ()), *(container.get("args") or ())]


def secrets_made(release: Release) -> dict[str, set[str]]:
    """Return the Secrets that the hook makes, with their keys."""
    options = list(_options(release))
    made = {value: _MAKES[name] for name, value in options if name in _MAKES}
    tokens = {value.partition("=")[0] for name, value in options if name == "--token"}
    return made | {value: tokens for name, value in options if name == "--token-values"}


def secrets_required(release: Release) -> dict[str, set[str]]:
    """Return the Secrets that the hook requires, with their keys."""
    required: dict[str, set[str]] = {}
    for name, value in _options(release):
        if name in {"--require", "--keyring-from"}:
            secret, _, key = value.partition(":")
            required.setdefault(secret, set()).add(key)
    return required


def _options(release: Release) -> Iterator[tuple[str, str]]:
    (container,) = release.pod("secrets").containers
    words = arguments(container)
    return ((name, value) for name, value in pairwise(words) if name.startswith("--"))
