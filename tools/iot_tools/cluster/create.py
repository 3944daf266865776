"""`iot-sensor secrets create`: makes the Secrets that are absent, and touches none that is there,
except the writers' keys, which follow the keyring.

Looks at everything first: where something is wrong, nothing is made. It may be ended anywhere, and
run several times at once: the next run finishes what is missing, and of two that make the same
Secret, one wins and the other goes on with what stands there.
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

# The chart's labels are those of Helm's own objects, which this is none of.
OURS = {"app.kubernetes.io/managed-by": "iot-sensor"}
# Argo CD may take it for its own by the label `instance`, and would delete what it has no text of.
KEPT = {
    "argocd.argoproj.io/compare-options": "IgnoreExtraneous",
    "argocd.argoproj.io/sync-options": "Prune=false,Delete=false",
}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What to make; None for what is not asked for."""

    keyring: str | None = None
    writer_keys: str | None = None
    keyring_from: tuple[str, str] | None = None
    """The Secret of others that the writers' keys are derived from, and the key in it."""
    tokens: str | None = None
    token_values: str | None = None
    scopes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Of each first token, by its name."""
    probe: str | None = None
    redis: tuple[str, str] | None = None
    """The Secret's name, and the host."""
    postgres: tuple[str, str] | None = None
    required: Sequence[tuple[str, str]] = ()
    """Secrets of others, and the key that must be in them."""
    ports: Sequence[tuple[tuple[str, str], frozenset[int]]] = ()
    """Secrets of others and the key of a URL, and the ports that a network policy opens for it."""
    labels: Mapping[str, str] = field(default_factory=dict)


class Creation:
    """One run."""

    def __init__(self, secrets: SecretObjects, asked: Asked) -> None:
        self._secrets = secrets
        self._asked = asked
        self._problems: list[str] = []

    def run(self) -> None:
        """Make what is absent.

        Raises:
            ClusterError: a Secret that is there is not as it must be, or the cluster refused.
        """
        asked = self._asked
        for name, key in asked.required:
            self._note(self._lacks(name, [key], self._content(name)))
        for (name, key), opened in asked.ports:
            self._note(self._closed(name, key, opened))
        # Looked at before the two it is made from: if it is there, so were they.
        known = asked.tokens is not None and self._content(asked.tokens) is not None
        wanted = self._wanted(known=known)
        found = [(each, self._content(each.name)) for each in wanted]
        self._check(found, known=known)
        if self._problems:
            raise ClusterError("\n".join(self._problems))
        for each, content in found:
            self._make(each, content)
        if known:
            self._tell_of_unknown_tokens()

    def _check(self, found: Sequence[tuple[FirstSecret, Content | None]], *, known: bool) -> None:
        asked = self._asked
        for each, content in found:
            if content is not None and not each.derived:
                self._note(self._wrong(each, content))
        if asked.keyring_from:
            source = self._source()
            self._note(self._wrong(source, self._content(source.name)))
        if known and asked.probe:
            content = self._content(asked.probe)
            if content is not None:
                self._note(self._lacks(asked.probe, ["token", "password"], content))
        if known and asked.keyring and not self._problems:
            self._note(self._lost(asked.keyring))

    def _wanted(self, *, known: bool) -> list[FirstSecret]:
        """In the order in which they are made. `known`: the tokens were given out before."""
        asked = self._asked
        wanted: list[FirstSecret] = []
        if asked.keyring:
            wanted.append(first_secrets.keyring(asked.keyring))
        if asked.writer_keys:
            wanted.append(first_secrets.writer_keys(asked.writer_keys, self._keyring_text))
        if asked.redis:
            wanted.append(first_secrets.redis(*asked.redis))
        if asked.postgres:
            wanted.append(first_secrets.postgres(*asked.postgres))
        if asked.token_values and asked.scopes and not known:
            wanted.append(first_secrets.token_values(asked.token_values, list(asked.scopes)))
        if asked.probe and not known:
            wanted.append(first_secrets.probe(asked.probe, token=asked.tokens is not None))
        if asked.tokens:  # the last, and so the sign that the others are there
            wanted.append(first_secrets.tokens(asked.tokens, self._tokens_content))
        return wanted

    def _tokens_content(self) -> Content:
        """Of what stands in the cluster now, whoever made it."""
        asked = self._asked
        values: Content = {}
        if asked.token_values and asked.scopes:
            wanted = first_secrets.token_values(asked.token_values, list(asked.scopes))
            values = self._standing(wanted)
        probe: Content = {}
        if asked.probe:
            probe = self._standing(first_secrets.probe(asked.probe, token=True))
        text = first_secrets.tokens_text(asked.scopes, values, probe)
        return {first_secrets.TOKENS: text}

    def _source(self) -> FirstSecret:
        """The keyring that the writers' keys are derived from."""
        own = (self._asked.keyring or "", first_secrets.KEYRING)
        return first_secrets.keyring(*(self._asked.keyring_from or own))

    def _keyring_text(self) -> str:
        """The keyring that stands in the cluster now, whoever made it."""
        source = self._source()
        return self._standing(source)[source.keys[0]]

    def _make(self, wanted: FirstSecret, content: Content | None) -> None:
        if wanted.derived:
            self._derive(wanted)
            return
        if content is None:
            if self._create(wanted, wanted.make()):
                return
            self._standing(wanted)
        _log.info("Secret %s: already there, left as it is", wanted.name)

    def _create(self, wanted: FirstSecret, content: Content) -> bool:
        """Make a Secret; False when there is one of that name."""
        labels = {**self._asked.labels, **OURS}
        annotations = {**KEPT, "kubernetes.io/description": wanted.about}
        made = self._secrets.create(wanted.name, content, labels=labels, annotations=annotations)
        if made:
            _log.info("Secret %s: made", wanted.name)
        return made

    def _derive(self, wanted: FirstSecret) -> None:
        """Make a Secret, or change it to what it has to be; again when somebody else was faster."""
        for _ in range(_ATTEMPTS):
            derived = wanted.make()
            found = self._secrets.read(wanted.name)
            if found is None:
                if self._create(wanted, derived):
                    return
            elif all(found.content.get(key) == text for key, text in derived.items()):
                _log.info("Secret %s: already there, left as it is", wanted.name)
                return
            elif self._secrets.change(found, derived):
                _log.info("Secret %s: derived again from the keyring", wanted.name)
                return
        raise ClusterError(f"{self._where(wanted.name)} is changed by others all the time")

    def _standing(self, wanted: FirstSecret) -> Content:
        """What is in a Secret that must be there by now."""
        content = self._content(wanted.name)
        problem = self._wrong(wanted, content)
        if content is None or problem:
            raise ClusterError(problem or f"{self._where(wanted.name)} is gone again")
        return content

    def _tell_of_unknown_tokens(self) -> None:
        asked = self._asked
        for name in (asked.token_values if asked.scopes else None, asked.probe):
            if name is None:
                continue
            if self._content(name) is not None:
                _log.info("Secret %s: already there, left as it is", name)
                continue
            _log.info(
                "Secret %s: not made, since %s is there and would not know its tokens; "
                "`iot-sensor tokens create` makes new ones",
                name,
                asked.tokens,
            )

    def _wrong(self, wanted: FirstSecret, content: Content | None) -> str | None:
        problem = self._lacks(wanted.name, wanted.keys, content)
        if content is not None and not problem:
            try:
                wanted.check(content)
            except IotError as error:
                problem = f"{self._where(wanted.name)}: {error}"
        return f"{problem}{wanted.remedy}" if content is not None and problem else problem

    def _lost(self, keyring: str) -> str | None:
        """New keys in place of lost ones would look as if nothing had ever been stored."""
        if self._content(keyring) is not None:
            return None
        tokens = self._asked.tokens
        return (
            f"{self._where(keyring)} is not there, but {tokens} is, which is made after it: "
            "restore the keys from their backup, for without them nothing that is stored can be "
            f"read; to begin anew with other keys, delete {tokens} too"
        )

    def _lacks(self, name: str, keys: Sequence[str], content: Content | None) -> str | None:
        if content is None:
            return f"{self._where(name)} is not there: make it, with the key {', '.join(keys)}"
        missing = [key for key in keys if not content.get(key, "").strip()]
        if not missing:
            return None
        return f"{self._where(name)} has no key {', '.join(missing)}, or nothing in it"

    def _closed(self, name: str, key: str, opened: frozenset[int]) -> str | None:
        url = (self._content(name) or {}).get(key, "")
        closed = closed_ports(url, opened)
        if not closed:
            return None
        listed = ", ".join(map(str, closed))
        return (
            f"{self._where(name)}: the URL in {key} names port {listed}, which the network "
            f"policies do not open: add it to {ports_value(url)}"
        )

    def _note(self, problem: str | None) -> None:
        if problem:
            self._problems.append(problem)

    def _content(self, name: str) -> Content | None:
        found = self._secrets.read(name)
        return None if found is None else found.content

    def _where(self, name: str) -> str:
        return f"Secret {name} in namespace {self._secrets.namespace}"
