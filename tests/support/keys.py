"""The names of Redis keys without a prefix, and keys of entries that come from no file."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from iot_cipher.encryption import TransitKeys
from iot_models.names import KeyNames

KEYS = KeyNames("")


@dataclass
class CheckedKeys:
    """Keys for a `Sealer`, which asks for them with each entry."""

    current: Callable[[], TransitKeys]
    check_at: float = -math.inf

    @property
    def loaded(self) -> TransitKeys:
        """Return nothing: a check is always due."""
        raise AssertionError("a check is due")
