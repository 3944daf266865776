"""Requests share an opening, but not what concerns only the client or the request that runs it."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from iot_api.limits.clients import Client
from iot_api.vaults.cache import CachedVault
from iot_api.vaults.shared_openings import SharedOpenings
from iot_models.errors import Refusal, TooManyRequestsError, UnavailableError

ONE, OTHER = Client("192.0.2.1"), Client("192.0.2.2")
LATER = 10.0
Result = CachedVault | None


class Openings:
    """Openings of one vault: each fails with the next of `errors`, or else finds nothing."""

    def __init__(self, *errors: BaseException) -> None:
        self._errors = list(errors)
        self._shared = SharedOpenings()
        self.runs = 0
        self.joined = threading.Semaphore(0)

    def run(self, client: Client, wait: Callable[[], object] = lambda: None) -> Result:
        def look_up() -> Result:
            self.runs += 1
            wait()
            if self._errors:
                raise self._errors.pop(0)
            return None

        return self._shared.run("vault", client, look_up, self.joined.release)

    def run_both(self, client: Client, threads: ThreadPoolExecutor) -> "list[Future[Result]]":
        """Run an opening of `ONE`; the request of `client` joins it."""
        began, go_on = threading.Event(), threading.Event()

        def wait() -> None:
            began.set()
            assert go_on.wait(LATER)

        first = threads.submit(self.run, ONE, wait)
        assert began.wait(LATER)
        second = threads.submit(self.run, client)
        assert self.joined.acquire(timeout=LATER)
        go_on.set()
        return [first, second]


def refused() -> TooManyRequestsError:
    return TooManyRequestsError("no more", retry_after=1, reason=Refusal.NEW_VAULTS)


@pytest.mark.parametrize("error", [refused(), SystemExit()])
def test_an_opening_that_ended_only_for_its_own_request_is_run_again(error: BaseException) -> None:
    """The other client has its own limits. gevent kills a greenlet with an exception that is no
    `Exception`."""
    with ThreadPoolExecutor() as threads:
        openings = Openings(error)
        first, second = openings.run_both(OTHER, threads)
        assert first.exception(LATER) is error
        assert second.result(LATER) is None
        assert openings.runs == 2


@pytest.mark.parametrize(("client", "error"), [(ONE, refused()), (OTHER, ConnectionError("away"))])
def test_another_error_is_shared(client: Client, error: BaseException) -> None:
    with ThreadPoolExecutor() as threads:
        openings = Openings(error)
        for each in openings.run_both(client, threads):
            assert each.exception(LATER) is error
        assert openings.runs == 1


def test_a_request_gives_up_after_two_killed_openings() -> None:
    openings = SharedOpenings()
    ended: list[Future[Result]] = []

    def run_killed() -> None:
        """Begin an opening that is killed as soon as the next request waits for it."""
        began, killed = threading.Event(), threading.Event()

        def look_up() -> Result:
            began.set()
            assert killed.wait(LATER)
            raise SystemExit

        waiting.append(killed)
        ended.append(threads.submit(openings.run, "vault", ONE, look_up, lambda: None))
        assert began.wait(LATER)

    waiting: list[threading.Event] = []

    def kill() -> None:
        waiting.pop().set()

    with ThreadPoolExecutor() as threads:
        run_killed()

        def kill_and_begin() -> None:
            kill()
            assert isinstance(ended[-1].exception(LATER), SystemExit)
            if len(ended) < 2:
                run_killed()

        with pytest.raises(UnavailableError):
            openings.run("vault", OTHER, lambda: None, kill_and_begin)
    assert len(ended) == 2
