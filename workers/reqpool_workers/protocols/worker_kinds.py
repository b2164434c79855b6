"""The worker half of a kind: how its origins are read, and which protocol speaks to them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from reqpool_contract import wire
from reqpool_contract.errors import ProtocolError, UsageError
from reqpool_contract.kind_registry import registered
from reqpool_contract.wire import KindInfo

from .addresses import Address, Name
from .datagram_protocol import DatagramProtocol
from .stream_protocol import StreamProtocol


@dataclass(frozen=True)
class WorkerKind(ABC):
    """Base class of both sorts.

    Attributes:
        name: the kind's name, as in the entry point.
        limit: default cap per upstream for the whole pool: connections, or requests in flight where there are
            none.
    """

    name: str
    limit: int

    @property
    @abstractmethod
    def info(self) -> KindInfo:
        """How the worker's HELLO describes this kind."""


@dataclass(frozen=True)
class DatagramKind(WorkerKind):
    """A kind that asks by datagram.

    Attributes:
        address: reads an origin; raises UsageError.
        protocol: makes the protocol of one socket from the origin and the time (as ``time.monotonic()``).
        requests_per_socket: requests after which a socket, and with it the source port, is replaced.
        repeats: whether a datagram is sent again while its answer is missing.
        stream: makes the protocol of a connection on which a cut-short answer is asked for again, from the
            origin; None if the kind has no streams.
        declines: whether another origin may have a better answer than this one, which came over a stream;
            None if none may.
    """

    address: Callable[[str], Address]
    protocol: Callable[[str, float], DatagramProtocol]
    requests_per_socket: int
    repeats: bool
    stream: Callable[[str], StreamProtocol] | None = None
    declines: Callable[[bytes], bool] | None = None

    @property
    def info(self) -> KindInfo:
        return KindInfo(self.name, False, self.limit, 1)


@dataclass(frozen=True)
class StreamKind(WorkerKind):
    """A kind that asks over connections, which the broker grants.

    Attributes:
        address: reads an origin; raises UsageError. A name is looked up by the worker.
        protocol: makes the protocol of one connection from the origin, the route's settings (packed,
            see :func:`settings_of`), and the largest answer in bytes; raises UsageError.
        depth: requests that may be unanswered on one connection.
        max_bytes: largest answer, unless the upstream's policy sets another limit.
        waits: a request may keep its connection for as long as it likes (BLPOP), so some of an upstream's
            connections are reserved for the short requests of other kinds.
        prompt_variant: the variant of origins where no request does so; empty if there is none.
    """

    address: Callable[[str], Address | Name]
    protocol: Callable[[str, bytes, int], StreamProtocol]
    depth: int = 1
    max_bytes: int = 16 << 20
    waits: bool = False
    prompt_variant: str = ""

    @property
    def info(self) -> KindInfo:
        return KindInfo(self.name, True, self.limit, self.depth, self.waits, self.prompt_variant)


def load() -> dict[str, WorkerKind]:
    """Import every registered worker half.

    Raises:
        UsageError: if an entry point does not hold a kind of its own name, or its limits are out of range.
        OSError: if the process is short of file descriptors.
    """
    kinds: dict[str, WorkerKind] = {}
    for entry in registered("reqpool.worker_kinds"):
        kind = entry.load()
        if not isinstance(kind, WorkerKind) or kind.name != entry.name:
            raise UsageError(
                f"entry point {entry.name!r} of reqpool.worker_kinds holds {kind!r}, not a kind of that name"
            )
        _check_limits(kind)
        kinds[entry.name] = kind
    return kinds


def _check_limits(kind: WorkerKind) -> None:
    """Check that the broker would take HELLO's entry for a kind: it refuses the whole worker otherwise."""
    try:
        wire.kinds((tuple(kind.info),))
    except ProtocolError as error:
        raise UsageError(f"{kind.info!r}: {error.text}") from error
    if isinstance(kind, StreamKind) and not 0 < kind.max_bytes <= wire.MAX_ANSWER_BYTES:
        raise UsageError(
            f"kind {kind.name!r}: max_bytes={kind.max_bytes!r} is not between 1 and {wire.MAX_ANSWER_BYTES}"
        )
