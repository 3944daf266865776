"""`iot-sensor secrets create`: create missing Secrets.

Existing Secrets are not changed, with one exception: the Secret of the writers' keys is updated if
the writers' keys do not match the keyring from which they are derived.

The other existing Secrets are checked first, and nothing is created if one of them is invalid. If
the command is interrupted, its next run creates what is missing. Two concurrent runs do no harm: if
both create the same Secret, the slower run uses the Secret of the other run.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from iot_models.errors import IotError

from . import first_secrets
from .first_secrets import Content, FirstSecret
from .secret_objects import ClusterError, SecretObjects
from .store_ports import closed_ports, ports_value

_ATTEMPTS = 20

_log = logging.getLogger(__name__)

# Not the chart's labels: Helm does not own these Secrets.
LABELS = {"app.kubernetes.io/managed-by": "iot-sensor"}
# Argo CD may take a Secret with the label `instance` for its own, and would delete it because no
# manifest contains it.
ANNOTATIONS = {
    "argocd.argoproj.io/compare-options": "IgnoreExtraneous",
    "argocd.argoproj.io/sync-options": "Prune=false,Delete=false",
}


@dataclass(frozen=True, kw_only=True)
class SecretRequest:
    """The names of the Secrets to create. A Secret whose name is None is not created."""

    keyring: str | None = None
    writer_keys: str | None = None
    keyring_from: tuple[str, str] | None = None
    """An existing Secret, and the field of this Secret that holds the keyring. The writers' keys
    are derived from this keyring. None: from the keyring in the Secret `keyring`."""
    tokens: str | None = None
    """The Secret with tokens.json, which has only hashes of the tokens."""
    token_values: str | None = None
    """The Secret with the first tokens in clear text; the tokens Secret has only their hashes."""
    scopes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The tokens to create with a new tokens Secret: their scopes, by name."""
    probe: str | None = None
    """The Secret with the token and the password of the probe and the canary."""
    redis: tuple[str, str] | None = None
    """The Secret with password and URL of the chart's Redis, and the host in this URL."""
    postgres: tuple[str, str] | None = None
    """The Secret for the chart's own Postgres, and the host of this Postgres. The Secret has the
    password and the URL."""
    required: Sequence[tuple[str, str]] = ()
    """Pairs: an existing Secret, and a field that this Secret must have."""
    ports: Sequence[tuple[tuple[str, str], frozenset[int]]] = ()
    """For each URL: its Secret, its field there, and the ports that the network policies open."""
    labels: Mapping[str, str] = field(default_factory=dict)


class SecretCreation:
    """Creates the Secrets that a `SecretRequest` names, if they are missing."""

    def __init__(self, secrets: SecretObjects, request: SecretRequest) -> None:
        self._secrets = secrets
        self._request = request
        self._problems: list[str] = []

    def run(self) -> None:
        """Create the missing Secrets.

        Raises:
            ClusterError: an existing Secret is invalid, a required Secret is missing, a URL has a
                port that the network policies do not open, or the API server refused a request.
        """
        request = self._request
        for name, key in request.required:
            self._note(self._missing_keys(name, [key], self._content(name)))
        for (name, key), opened in request.ports:
            self._note(self._closed_ports(name, key, opened))
        # The Secret with tokens.json is created after `token_values` and `probe`, so it is read
        # before them: if it exists, these two were created as well.
        tokens_exist = request.tokens is not None and self._content(request.tokens) is not None
        secrets = self._secrets_in_order(tokens_exist=tokens_exist)
        contents = [(secret, self._content(secret.name)) for secret in secrets]
        self._check(contents, tokens_exist=tokens_exist)
        if self._problems:
            raise ClusterError("\n".join(self._problems))
        for secret, content in contents:
            self._ensure(secret, content)
        if tokens_exist:
            self._log_skipped_tokens()

    def _check(
        self, contents: Sequence[tuple[FirstSecret, Content | None]], *, tokens_exist: bool
    ) -> None:
        request = self._request
        for secret, content in contents:
            if content is not None and not secret.derived:
                self._note(self._problem(secret, content))
        if request.keyring_from:
            source = self._keyring_source()
            self._note(self._problem(source, self._content(source.name)))
        if tokens_exist and request.probe:
            content = self._content(request.probe)
            if content is not None:
                self._note(self._missing_keys(request.probe, ["token", "password"], content))
        if tokens_exist and request.keyring and not self._problems:
            self._note(self._lost_keyring(request.keyring))

    def _secrets_in_order(self, *, tokens_exist: bool) -> list[FirstSecret]:
        """Return the Secrets to create or check, in the order of their creation.

        If the cluster has a tokens.json (`tokens_exist`), the Secrets `token_values` and `probe`
        are left out: they would get new tokens, which the API would not accept.
        """
        request = self._request
        secrets: list[FirstSecret] = []
        if request.keyring:
            secrets.append(first_secrets.keyring(request.keyring))
        if request.writer_keys:
            secrets.append(first_secrets.writer_keys(request.writer_keys, self._keyring_text))
        if request.redis:
            secrets.append(first_secrets.redis(*request.redis))
        if request.postgres:
            secrets.append(first_secrets.postgres(*request.postgres))
        if request.token_values and request.scopes and not tokens_exist:
            secrets.append(first_secrets.token_values(request.token_values, list(request.scopes)))
        if request.probe and not tokens_exist:
            secrets.append(first_secrets.probe(request.probe, token=request.tokens is not None))
        if request.tokens:  # last: its existence shows that the others were created
            secrets.append(first_secrets.tokens(request.tokens, self._tokens_content))
        return secrets

    def _tokens_content(self) -> Content:
        """Return the content of the Secret with tokens.json: names, scopes and hashes of tokens.

        The tokens themselves are read from the Secrets `SecretRequest.token_values` and
        `SecretRequest.probe`.
        """
        request = self._request
        values: Content = {}
        if request.token_values and request.scopes:
            secret = first_secrets.token_values(request.token_values, list(request.scopes))
            values = self._existing(secret)
        probe: Content = {}
        if request.probe:
            probe = self._existing(first_secrets.probe(request.probe, token=True))
        text = first_secrets.tokens_text(request.scopes, values, probe)
        return {first_secrets.TOKENS: text}

    def _keyring_source(self) -> FirstSecret:
        """Return the Secret with the keyring from which the writers' keys are derived."""
        own = (self._request.keyring or "", first_secrets.KEYRING)
        return first_secrets.keyring(*(self._request.keyring_from or own))

    def _keyring_text(self) -> str:
        source = self._keyring_source()
        return self._existing(source)[source.keys[0]]

    def _ensure(self, secret: FirstSecret, content: Content | None) -> None:
        if secret.derived:
            self._derive(secret)
            return
        if content is None:
            if self._create(secret, secret.make()):
                return
            self._existing(secret)
        _log.info("Secret %s: exists, not changed", secret.name)

    def _create(self, secret: FirstSecret, content: Content) -> bool:
        """Create a Secret with this content. Return False if a Secret of this name exists."""
        labels = {**self._request.labels, **LABELS}
        annotations = {**ANNOTATIONS, "kubernetes.io/description": secret.about}
        created = self._secrets.create(secret.name, content, labels=labels, annotations=annotations)
        if created:
            _log.info("Secret %s: created", secret.name)
        return created

    def _derive(self, secret: FirstSecret) -> None:
        """Create the Secret of the writers' keys, or update it if the keyring has changed.

        If another client changes the Secret at the same time, try again, up to `_ATTEMPTS` times.
        """
        for _ in range(_ATTEMPTS):
            # Read before the keyring: if a rotation changes both, the change below conflicts.
            found = self._secrets.read(secret.name)
            derived = secret.make()
            if found is None:
                if self._create(secret, derived):
                    return
            elif all(found.content.get(key) == text for key, text in derived.items()):
                _log.info("Secret %s: exists, not changed", secret.name)
                return
            elif self._secrets.change(found, derived):
                _log.info("Secret %s: derived again, because the keyring has changed", secret.name)
                return
        raise ClusterError(f"other clients keep changing {self._where(secret.name)}; try again")

    def _existing(self, secret: FirstSecret) -> Content:
        """Return the content of a Secret. Raises `ClusterError` if it is missing or invalid."""
        content = self._content(secret.name)
        problem = self._problem(secret, content)
        if content is None or problem:
            raise ClusterError(problem or f"{self._where(secret.name)} was deleted; try again")
        return content

    def _log_skipped_tokens(self) -> None:
        request = self._request
        for name in (request.token_values if request.scopes else None, request.probe):
            if name is None:
                continue
            if self._content(name) is not None:
                _log.info("Secret %s: exists, not changed", name)
                continue
            _log.info(
                "Secret %s: not created: the API would refuse its new tokens, because Secret %s "
                "exists and has only the hashes of earlier tokens; create tokens with "
                "`iot-sensor tokens create`",
                name,
                request.tokens,
            )

    def _problem(self, secret: FirstSecret, content: Content | None) -> str | None:
        problem = self._missing_keys(secret.name, secret.keys, content)
        if content is not None and not problem:
            try:
                secret.check(content)
            except IotError as error:
                problem = f"{self._where(secret.name)}: {error}"
        return f"{problem}{secret.remedy}" if content is not None and problem else problem

    def _lost_keyring(self, keyring: str) -> str | None:
        """Return an error message if the Secret `keyring` is missing, else None.

        Called only if the Secret with tokens.json exists. That Secret is created last, so a missing
        keyring was lost. A new keyring could not decrypt the stored readings.
        """
        if self._content(keyring) is not None:
            return None
        tokens = self._request.tokens
        return (
            f"{self._where(keyring)} was lost: the Secret {tokens}, which is created after it, "
            "exists. Restore the keyring from its backup: without it, no stored reading can be "
            f"read. To start over with a new keyring, delete the Secret {tokens}"
        )

    def _missing_keys(self, name: str, keys: Sequence[str], content: Content | None) -> str | None:
        if content is None:
            return f"{self._where(name)} does not exist: create it, with the key {', '.join(keys)}"
        missing = [key for key in keys if not content.get(key, "").strip()]
        if not missing:
            return None
        return f"{self._where(name)} has no value for the key {', '.join(missing)}"

    def _closed_ports(self, name: str, key: str, opened: frozenset[int]) -> str | None:
        url = (self._content(name) or {}).get(key, "")
        closed = closed_ports(url, opened)
        if not closed:
            return None
        listed = ", ".join(map(str, closed))
        return (
            f"{self._where(name)}: the URL in {key} has port {listed}, which the network policies "
            f"do not open: add the port to {ports_value(url)}"
        )

    def _note(self, problem: str | None) -> None:
        if problem:
            self._problems.append(problem)

    def _content(self, name: str) -> Content | None:
        found = self._secrets.read(name)
        return None if found is None else found.content

    def _where(self, name: str) -> str:
        return f"Secret {name} in namespace {self._secrets.namespace}"
