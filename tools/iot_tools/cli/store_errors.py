"""Errors of the stores as commands report them."""

from collections.abc import Iterator
from contextlib import contextmanager

from redis.exceptions import RedisError

from iot_models.errors import UnavailableError
from iot_stores.postgres import AWAY
from iot_stores.store_states import state_of


@contextmanager
def naming_states() -> Iterator[None]:
    """Raise `UnavailableError` with the state for an error of a store that can't serve. Other
    errors are defects, and pass.
    """
    try:
        yield
    except (RedisError, *AWAY) as error:
        state = state_of(error)
        if state is None:
            raise
        raise UnavailableError(str(state)) from None
