"""Reads the readings of a vault from the service, in pages of bounded size."""

from collections.abc import Iterator

import msgspec

from iot_models.errors import IotError
from iot_models.reading import Reading
from iot_sensor_client import Client, ClientError, Response, RetryPolicy
from iot_sensor_client.errors import FOREIGN, raise_for_status

RETRY = RetryPolicy(max_attempts=60, max_seconds=600.0)
"""With these retries, an import or export of hours survives a restart of the service."""
TIMEOUT = 60.0
_FIRST_LIMIT, _MAX_LIMIT = 1, 10_000
_MAX_GROWTH = 8
_PAGE_BYTES = 4 * 2**20
"""Approximate size of the response with a page, in bytes. It bounds the memory of the command if
the sizes of readings change slowly. It does not bound a page in which large readings follow small
ones.

The sizes of the first readings are unknown, so the number of readings starts at `_FIRST_LIMIT`. It
grows at most by the factor `_MAX_GROWTH` from page to page."""


class ServiceError(IotError):
    """The service refuses, fails or does not answer. The message does not name its URL."""


class CursorError(ServiceError):
    """The service refuses a cursor: it returned the cursor for another password or another read."""


class ReadPage(msgspec.Struct, frozen=True):
    """A page of readings, as the API returns it."""

    readings: list[Reading] = msgspec.field(name="data")
    cursor: str | None = None
    """Where the next page begins; None: this is the last page."""


_decoder = msgspec.json.Decoder(ReadPage)


class ServicePages:
    """Pages of a vault's readings, in the order of their interrogator timestamps."""

    def __init__(
        self, client: Client, password: str, path: str = "/api/iot", query: str = ""
    ) -> None:
        """By default, the pages have all readings of the vault.

        The path `/api/iot/0/5`, for example, selects the readings with the relative timestamps 0 to
        5. `query` is empty or begins with `&`, for example `&from=2026-11-01`.
        """
        self._client = client
        self._body = {"data": {"db_password": password}}
        self._path = path
        self._query = query

    def check(self, cursor: str) -> None:
        """Raise `ServiceError` unless the service returned this cursor for this password."""
        path = f"{self._path}?limit=1{self._query}&cursor={cursor}"
        checked(self._client, "POST", path, json=self._body)

    def pages(self, cursor: str | None = None) -> Iterator[ReadPage]:
        """Yield the pages from `cursor` on; if it is None, from the first reading on.

        Raises:
            ServiceError: a request failed in spite of retries.
        """
        limit = _FIRST_LIMIT
        while True:
            path = f"{self._path}?limit={limit}{self._query}"
            if cursor is not None:
                path += f"&cursor={cursor}"
            response = checked(self._client, "POST", path, json=self._body)
            page = _decode(response)
            cursor = page.cursor
            yield page
            if cursor is None:
                return
            fitting = limit * _PAGE_BYTES // max(1, len(response.body))
            limit = max(1, min(_MAX_LIMIT, _MAX_GROWTH * limit, fitting))


def checked(client: Client, method: str, path: str, *, json: object = None) -> Response:
    """Send a request that is safe to repeat, with the retries of `client`. Return the response.

    Raises:
        ServiceError: the request failed.
    """
    try:
        response = client.request(method, path, json=json)
        raise_for_status(response)
    except ClientError as error:
        refused = CursorError if error.reason.startswith("cursor: ") else ServiceError
        raise refused(error.reason) from None
    return response


def _decode(response: Response) -> ReadPage:
    try:
        return _decoder.decode(response.body)
    except msgspec.DecodeError:
        raise ServiceError(FOREIGN) from None
