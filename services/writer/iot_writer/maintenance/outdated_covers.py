"""New covers of the hot window after Redis was restarted or failed over."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager

from redis.exceptions import RedisError

from iot_models.errors import SettingsError
from iot_stores import ledger
from iot_stores.hot_window import DrainedShard, HotWindow
from iot_stores.postgres import Connection
from iot_stores.store_states import POSTGRES_UNAVAILABLE

_log = logging.getLogger(__name__)


class OutdatedCovers:
    """The covers that are not valid any more (`HotWindow.outdated`).

    The next drain of a shard begins a new cover. For shards without new entries, this class begins
    the new covers.
    """

    def __init__(
        self,
        hot_window: HotWindow,
        connect: Callable[[], AbstractContextManager[Connection]],
        *,
        shards: int,
    ) -> None:
        self._hot_window = hot_window
        self._connect = connect
        self._shards = range(shards)

    def replace(self) -> None:
        """Begin new covers now. Ignore errors of the stores: a later call tries again."""
        try:
            outdated = self._hot_window.outdated(self._shards)
            if not outdated:
                return
            with self._connect() as connection:
                offsets = ledger.read_offsets(connection, outdated)
            self._hot_window.write(
                [DrainedShard(shard, offset, offset, []) for shard, offset in offsets.items()]
            )
        except (RedisError, SettingsError, *POSTGRES_UNAVAILABLE) as error:
            _log.debug("the covers of the hot window are not replaced: %s", error)
