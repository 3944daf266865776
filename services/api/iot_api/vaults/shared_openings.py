"""Concurrent requests for the same vault share one opening."""

from collections.abc import Callable, Hashable
from concurrent.futures import CancelledError, Future

from iot_api.limits.clients import Client
from iot_models.errors import TooManyRequestsError, UnavailableError

from .cache import CachedVault

_MAX_ATTEMPTS = 2


class _Opening(Future[CachedVault | None]):
    """An opening under way, and the client whose request runs it."""

    def __init__(self, client: Client) -> None:
        super().__init__()
        self.client = client


class SharedOpenings:
    """The openings under way in this process, each run by one request."""

    def __init__(self) -> None:
        self._under_way: dict[Hashable, _Opening] = {}

    def run(
        self,
        key: Hashable,
        client: Client,
        look_up: Callable[[], CachedVault | None],
        before_waiting: Callable[[], object],
    ) -> CachedVault | None:
        """Return the result of `look_up`, or of a running opening with the same key.

        Before the wait for a running opening, call `before_waiting`. If the running opening raises
        an error, raise it here, too. In two cases, start over instead:

        - The request that runs the opening is killed.
        - The request that runs the opening belongs to another client, and is refused
          (`TooManyRequestsError`). The limits are counted per client, so `client` may still open
          the vault.

        After `_MAX_ATTEMPTS` attempts, raise the refusal, or `UnavailableError` if the request that
        ran the opening was killed.
        """
        for attempt in range(1, _MAX_ATTEMPTS + 1):
            new_opening = _Opening(client)
            opening = self._under_way.setdefault(key, new_opening)
            try:
                if opening is new_opening:
                    return self._run(key, new_opening, look_up)
                before_waiting()
                return opening.result()
            except CancelledError:
                continue
            except TooManyRequestsError:
                if opening.client.name == client.name or attempt == _MAX_ATTEMPTS:
                    raise
            finally:
                del new_opening, opening  # no reference cycle of error, traceback and future
        raise UnavailableError("the opening of this vault was interrupted; try again")

    def _run(
        self, key: Hashable, opening: _Opening, look_up: Callable[[], CachedVault | None]
    ) -> CachedVault | None:
        try:
            found = look_up()
        except Exception as error:
            opening.set_exception(error)
            raise
        else:
            opening.set_result(found)
            return found
        finally:
            del self._under_way[key]
            opening.cancel()  # has an effect only if this greenlet is being killed
            del opening
