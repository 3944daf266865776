"""The names of Redis keys without a prefix, as all but the tests of prefixes use them."""

from iot_models.names import KeyNames

KEYS = KeyNames("")
