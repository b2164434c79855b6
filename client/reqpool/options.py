"""The options that every request takes, whatever its kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypedDict, TypeVar

from .future import Future

T = TypeVar("T")
Callback = Callable[[Future[T]], object]


class Options(TypedDict, Generic[T], total=False):
    """The options of every request, given by keyword; ``T`` is the type of its result.

    An unknown option is a TypeError at the call, and a wrong value a UsageError. A function that passes
    options on can declare them as ``**options: Unpack[reqpool.Options[T]]``.

    Attributes:
        timeout: seconds after which the request ends with RequestTimeout, over 0 and at most 24 h; redirects
            and retries share it. None: the pool's timeout.
        callback: called once with the finished future, on the pool's I/O thread or in the pool's executor.
        priority: 0 (first), 1 (the default) or 2 (last). Strict: an upstream gets a request only when none of
            a higher priority is queued for it.
        idempotent: whether the request may be sent more than once, which lets it survive a lost connection
            or worker. None: what the kind decides, see the method; udp, tcp and mysql decide for False.
        block: what to do while ``max_pending`` requests are pending. True: wait for room, ``timeout`` seconds
            at most. False, the default: raise Overloaded.
    """

    timeout: float | None
    callback: Callback[T] | None
    priority: int
    idempotent: bool | None
    block: bool
