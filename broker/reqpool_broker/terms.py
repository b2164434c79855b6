"""What requests of one group share, and what has been tried. No I/O, no clock."""

from __future__ import annotations

from typing import NamedTuple

from reqpool_contract.wire import Flag

from .session import Session

_IDEMPOTENT = int(Flag.IDEMPOTENT)
_OPENS = int(Flag.OPENS)
"""As a plain int, like all flags on the request path: the operators of enum.IntFlag take microseconds."""


Asked = tuple[str, tuple[str, ...], bytes]
"""Kind, origins and settings as a client sent them."""


class Terms:
    """What requests of one submitted group have in common; never changes.

    Attributes:
        session: whose they are.
        kind: name of the kind.
        origins: upstreams to try in turn.
        flags: :class:`reqpool_contract.wire.Flag` bits.
        priority: 0 (first) to 2 (last).
        pin: number of the pinned connection they are for, or None.
        trace: trace context or None.
        settings: what the worker needs for a connection.
        asked: what its client asked for, if others that ask for the same can be leased alike.
        own_bytes: size of the settings, if they came with these requests only; 0 if they are cached, or come
            from the configuration.
        deadline_s: broker-monotonic instant at which the requests end in any case.
    """

    __slots__ = (
        "asked",
        "deadline_s",
        "flags",
        "kind",
        "origins",
        "own_bytes",
        "pin",
        "priority",
        "session",
        "settings",
        "trace",
    )

    def __init__(
        self,
        session: Session,
        kind: str,
        origins: tuple[str, ...],
        flags: int,
        priority: int,
        trace: bytes | None,
        deadline_s: float,
        settings: bytes = b"",
        pin: int | None = None,
        own_bytes: int = 0,
        asked: Asked | None = None,
    ) -> None:
        self.session = session
        self.kind = kind
        self.origins = origins
        self.flags = flags
        self.priority = priority
        self.trace = trace
        self.settings = settings
        self.pin = pin
        self.own_bytes = own_bytes
        self.asked = asked
        self.deadline_s = deadline_s

    @property
    def idempotent(self) -> bool:
        return bool(self.flags & _IDEMPOTENT)

    @property
    def opens(self) -> bool:
        """Whether it is the first request of a pin."""
        return self.pin is not None and bool(self.flags & _OPENS)

    @property
    def goes_to_pin(self) -> bool:
        """Whether they are for a connection that is pinned already, and so for no other."""
        return self.pin is not None and not self.flags & _OPENS


class Past(NamedTuple):
    """What has been tried with requests that have not ended.

    Attributes:
        attempts: how many leases.
        tried: how many of their ``terms.origins`` they have been tried at.
        first: index of the one that was tried first.
        sent: whether the upstream could have acted on one of those attempts, or of an earlier broker's.
        answer: an origin's answer that others may improve on; final if none does. None if there is none.
    """

    attempts: int = 0
    tried: int = 0
    first: int = 0
    sent: bool = False
    answer: bytes | None = None


NEW = Past()
"""Nothing has been tried."""
