"""The names of Redis keys without a prefix, and transit keys that a test sets."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from iot_cipher.encryption import TransitKeys
from iot_models.names import KeyNames

KEYS = KeyNames("")


@dataclass
class CheckedKeys:
    """Transit keys for a `Sealer`, which calls `current` for each entry."""

    current: Callable[[], TransitKeys]
    check_at: float = -math.inf

    @property
    def loaded(self) -> TransitKeys:
        """Fail: a `Sealer` reads this only while no check is due, but a check is always due."""
        raise AssertionError("a check is due")
