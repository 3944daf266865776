"""A rotation that ends at any step is finished by another call, and loses nothing."""

import functools
import itertools
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from integration.rotation.running import Running
from iot_cipher.followed_file import FollowedFile
from iot_cipher.keyring import parse_keyring
from iot_cipher.writer_keys import writer_keys_text
from iot_stores import process_reports
from iot_stores.audit import AuditLog
from iot_stores.audit_check import check_audit
from iot_stores.rewrap import Rewrap
from iot_tools.cli import key_rotation
from iot_tools.cli.file_on_disk import FileOnDisk
from support.draining import drain_all
from support.waiting import wait_until

EFFECTS = (
    (FileOnDisk, "change"),
    (AuditLog, "record"),
    (Rewrap, "_swap"),
    (Rewrap, "_apply"),
    (key_rotation, "reseal_audit"),
)
"""All functions of a rotation that change something."""


class KilledError(BaseException):
    """Stands for SIGKILL: no `except Exception` catches it."""


class Kill:
    """Ends the command before or after its n-th change."""

    def __init__(self) -> None:
        self.at: tuple[int, bool] | None = None
        self.seen = 0

    def wrap(self, function: Callable[..., object]) -> Callable[..., object]:
        @functools.wraps(function)
        def wrapped(*arguments: object, **options: object) -> object:
            number, self.seen = self.seen, self.seen + 1
            if self.at == (number, False):
                self.at = None
                raise KilledError
            result = function(*arguments, **options)
            if self.at == (number, True):
                self.at = None
                raise KilledError
            return result

        return wrapped


@pytest.fixture
def kill(monkeypatch: pytest.MonkeyPatch) -> Kill:
    monkeypatch.setattr(FollowedFile, "CHECK_SECONDS", 0.0)
    monkeypatch.setattr(process_reports, "REPORT_SECONDS", 0.0)
    made = Kill()
    for owner, name in EFFECTS:
        monkeypatch.setattr(owner, name, made.wrap(getattr(owner, name)))
    return made


def rotate(running: Running, writer_keys: Path) -> None:
    """Run `keys rotate` until it has retired the old key; repeat it when it is killed."""
    options = ("rotate", "--writer-keys", str(writer_keys), "--settle", "0", "--wait", "0")

    def succeeded() -> bool:
        running.report()
        try:
            return running.keys(*options)[0] == 0
        except KilledError:
            return False
        finally:
            drain_all(running.writer)

    wait_until(succeeded, what="a rotation")


def test_a_rotation_killed_at_any_change_is_finished_by_the_next(
    running: Running, kill: Kill, postgres: psycopg.Connection, tmp_path: Path
) -> None:
    writer_keys = tmp_path / "writer-keys.json"
    running.put()
    drain_all(running.writer)
    stored = 1
    for change in itertools.count():
        before = running.keyring().primary_id
        kill.at, kill.seen = (change // 2, change % 2 == 1), 0
        running.put()  # waits under the old key
        rotate(running, writer_keys)
        running.put()
        drain_all(running.writer)
        stored += 2
        keyring = running.keyring()
        assert keyring.key_ids == (keyring.primary_id,)
        assert keyring.primary_id > before
        assert parse_keyring(Path(running.settings.keyring_file).read_text()).retired
        assert writer_keys.read_text() == writer_keys_text(keyring)
        assert len(running.read()) == stored
        running.writer.audit_chainer.run(running.writer.postgres, running.writer.drop_postgres)
        check_audit(postgres, keyring, running.writer.stores.audit_head.read())
        if kill.at is not None:  # the rotation made fewer changes than that
            assert change > 20
            return
