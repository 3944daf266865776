"""The names of Redis keys without a prefix."""

from iot_models.names import KeyNames

KEYS = KeyNames("")
