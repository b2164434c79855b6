"""Kinds: what a request can ask for. This is the client half of one; the worker half does the talking.

A kind is registered under one name in two entry-point groups, ``reqpool.kinds`` (an object of
:class:`Kind`, found here) and ``reqpool.worker_kinds`` (found by the workers), so "and other services"
is a package that anybody can write.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from importlib.metadata import entry_points
from typing import Any, ClassVar

from ..errors import UsageError


class Route:
    """Everything requests of one group share besides timeout and priority.

    A kind makes one per target and keeps it: the stub groups requests by the route's identity, so a
    route made anew for each request would put every request into a group of its own.

    Attributes:
        kind: the kind.
        origins: upstreams to try in turn, 1 to 8, e.g. ``("dns://127.0.0.1:53",)``.
        idempotent: may such a request run more than once?
    """

    __slots__ = ("idempotent", "kind", "origins")

    def __init__(self, kind: Kind, origins: tuple[str, ...], idempotent: bool) -> None:
        self.kind = kind
        self.origins = origins
        self.idempotent = idempotent

    def __repr__(self) -> str:
        return f"Route({self.kind.name!r}, {self.origins!r}, idempotent={self.idempotent})"


class Kind(ABC):
    """Client half of a kind: checks and encodes on the caller's thread, decodes on first look.

    Objects are shared by all threads and pools of a process; both methods may be called from any
    thread, and must not block.
    """

    name: ClassVar[str]

    # *args beside **options: so a type checker lets a subclass name options of its own (typing spec, "...").
    @abstractmethod
    def encode(self, target: Any, payload: Any, *args: Any, **options: Any) -> tuple[Route, bytes]:
        """Check a request and encode it.

        Args:
            target: which upstream; what it looks like is the kind's affair.
            payload: what to ask.
            **options: the kind's own options; an unknown one is a TypeError.

        Returns:
            The (kept) route and the payload for the worker half.

        Raises:
            UsageError: if anything about it is wrong; the text names it and the way out.
        """

    @abstractmethod
    def decode(self, data: bytes) -> Any:
        """Make the value of ``future.result()`` from the worker half's raw answer. Called once, lazily.

        Raises:
            BadResponse: if the answer cannot be read.
        """


_found: dict[str, Kind] = {}


def find(name: str) -> Kind:
    """Return the kind registered as ``name``, importing its package on first use.

    Raises:
        UsageError: if no installed package registers that name.
    """
    kind = _found.get(name)
    if kind is None:
        registered = entry_points(group="reqpool.kinds")
        if name not in registered.names:
            known = ", ".join(sorted(registered.names)) or "none: is reqpool installed?"
            raise UsageError(f"unknown kind {name!r}; installed kinds: {known}")
        kind = _found[name] = registered[name].load()
    return kind
