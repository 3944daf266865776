"""Follow the changes of passwords and the erasures that other API processes make."""

import logging
import math
import threading
import time
import uuid
from collections.abc import Callable

from redis.exceptions import RedisError

from iot_cipher.vault import VaultRecord
from iot_models.errors import UnavailableError
from iot_stores.password_changes import BEGINNING, PasswordChanges
from iot_stores.store_states import report

from .restorer import VaultRestorer

FOLLOW_SECONDS = 0.5
"""Time between two reads of the announced changes."""
ANNOUNCED_SECONDS = 2 * FOLLOW_SECONDS
"""Time from the announcement of a change to the change itself. After the change, it is announced
again, and the same time passes until the client gets the answer. Within this time after each of the
two announcements, every process reads the announcement and drops the vault. A process that has not
read the announcements for this long, for example because the process hung, reads them before it
uses an open vault."""
LATEST_SECONDS = 20.0
"""A change that is not made within this time after its announcement is given up. The time is much
shorter than `password_changes.SETTLING_SECONDS`."""

_log = logging.getLogger(__name__)


def wait_for_followers() -> None:
    """Wait until every process has read an announcement that was just made."""
    time.sleep(ANNOUNCED_SECONDS)


def wait_before_change(change: str) -> None:
    """Wait until every process has read the announcement of a change that is not made yet.

    Raises:
        UnavailableError: the wait took longer than `LATEST_SECONDS`, so the change must not be
            made. `change` is the name of the change in the message.
    """
    announced = time.monotonic()
    wait_for_followers()
    if time.monotonic() > announced + LATEST_SECONDS:
        raise UnavailableError(f"the {change} took too long and was not made; try again")


class ChangeFollower(threading.Thread):
    """A thread that drops open vaults when a change of password or an erasure is announced.

    While Redis is away, no password can be changed and no vault erased. If only this process can't
    reach Redis, another process may erase a vault that is open here, or change its password. This
    process then drops the vault at its next renewal, or when Redis can be reached again.
    """

    def __init__(self, changes: PasswordChanges, restorer: VaultRestorer) -> None:
        super().__init__(name="password-changes", daemon=True)
        self._changes = changes
        self.restorer = restorer
        self._cache = restorer.cache
        self._last: str | None = None
        self.has_failed = False
        """Whether the last check failed."""
        self._stopping = threading.Event()
        self.on_change: Callable[[uuid.UUID, bytes], None] = lambda *_: None
        """Called with each change: the vault's id, and a lookup as in `UnsettledChange`."""
        self.on_gap: Callable[[], None] = lambda: None
        """Called when this process may have missed announcements."""

    def start(self) -> None:
        """Start the thread. Until its first check, each use of an open vault calls `check`."""
        self._cache.followed_until = -math.inf
        super().start()

    def check(self) -> None:
        """Read the changes announced since the last check, and drop their vaults.

        Raises:
            RedisError: Redis is away.
        """
        until = time.monotonic() + ANNOUNCED_SECONDS
        try:
            announced = self._changes.read(self._last)
        except RedisError:
            self.has_failed = True
            # The next check must read all changes: until then, old records may open vaults.
            self._last = self._last or BEGINNING
            raise
        self.has_failed = False
        for change in announced.changes:
            self._cache.note_change(*change)
            self.restorer.forget(*change)
            self.on_change(*change)
        if not announced.complete:
            self._compare_all()
            self.on_gap()
        self._last = announced.last
        self._cache.followed_until = until

    def catch_up(self, *, required: bool = True) -> None:
        """Call `check` if the last successful check began at least `ANNOUNCED_SECONDS` ago.

        With `required=False`, do nothing while Redis is away.

        Raises:
            RedisError: Redis is away, and `required` is true.
        """
        if time.monotonic() < self._cache.followed_until or (self.has_failed and not required):
            return
        try:
            self.check()
        except RedisError:
            if required:
                raise

    def run(self) -> None:
        """Call `check` every `FOLLOW_SECONDS`, until `stop` is called."""
        while not self._stopping.is_set():
            try:
                self.check()
            except RedisError as error:
                _log.debug("could not read the changes of passwords: %s", error)
            except Exception as error:  # noqa: BLE001 - the thread must survive any defect
                report(_log, "changes of passwords are not read", error)
            self._stopping.wait(FOLLOW_SECONDS)

    def stop(self) -> None:
        """Tell the thread to end after the check that is running."""
        self._stopping.set()

    def _compare_all(self) -> None:
        """Make the restorer compare the records of all open vaults with Postgres soon.

        The restorer drops the vaults whose changes this process has missed.
        """
        records: dict[uuid.UUID, VaultRecord] = {}
        for record in self._cache.records():
            if records.setdefault(record.vault_id, record) != record:
                self._cache.forget_vault(record.vault_id)  # open under an old and a new password
        for record in records.values():
            self.restorer.watch(record)
