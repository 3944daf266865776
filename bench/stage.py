"""What all measures share: the running sides and the results."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from iot_tools.local.child import LaunchError
from iot_tools.local.ports import free_port

from . import wrk
from .load import Wire
from .peers.influxdb import InfluxDB
from .peers.postgres_rows import PostgresRows
from .peers.side import Peer, Side
from .peers.stand_in import StandIn
from .peers.victoria_metrics import VictoriaMetrics
from .readings import vault_name
from .results import Results
from .scale import Scale
from .service import Service, running_service

PEERS: tuple[type[Peer], ...] = (StandIn, InfluxDB, VictoriaMetrics, PostgresRows)


@dataclass(slots=True)
class Stage:
    """A run of the benchmark."""

    scale: Scale
    folder: Path
    service: Service
    peers: dict[str, Peer]
    results: Results
    _vaults: Iterator[int] = field(default_factory=count)

    @property
    def sides(self) -> list[Side]:
        """All sides, this service first."""
        return [self.service, *self.peers.values()]

    def peer(self, kind: type[Peer]) -> Peer | None:
        """Return a peer; None if it is not installed or did not start."""
        return self.peers.get(kind.name)

    def stop_peers(self) -> None:
        """Stop all peers, so that the next measures have the machine for this service."""
        for peer in self.peers.values():
            peer.stop()

    def new_vaults(self, number: int) -> list[str]:
        """Return names of new vaults: no measure has used them."""
        return [vault_name(next(self._vaults)) for _ in range(number)]


@contextmanager
def staged(scale: Scale) -> Iterator[Stage]:
    """Start all sides. They stop at the end of the block.

    A peer that is not installed is left out, with a note in the results. A peer that does not start
    is left out, too, and counts as a failure.
    """
    results = Results()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="iot-bench-peers-")))
        service = stack.enter_context(running_service())
        peers: dict[str, Peer] = {}
        for kind in PEERS:
            if not kind.installed():
                results.notes.append(missing(kind.name, kind.package))
                continue
            peer = kind(folder / kind.__name__, free_port())
            stack.callback(shutil.rmtree, peer.folder, ignore_errors=True)
            stack.callback(peer.stop)
            try:
                peer.start()
            except (LaunchError, TimeoutError) as error:
                results.failures.append(f"{kind.name}: {error}")
                continue
            peers[kind.name] = peer
        if not wrk.installed():
            results.notes.append(missing("wrk", wrk.PACKAGE))
        yield Stage(scale, folder, service, peers, results)


def missing(name: str, package: str) -> str:
    """Return the note on a program that is not installed."""
    return (
        f"{name} is not installed and was left out. Install it with `apt-get install {package}` "
        "(Debian) or `make bench-peers`."
    )


def batches(wire: Wire, vault: str, begin: int, number: int, size: int) -> Iterator[bytes]:
    """Yield `number` requests of `size` readings each, from the reading with number `begin` on."""
    for batch in range(number):
        yield wire.request(wire.batch(begin + batch * size, size, vault))
