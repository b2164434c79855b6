"""Connecting to the first of a host's addresses that accepts: attempts in parallel (RFC 8305 §5).

Some facts this file relies on:

* A non-blocking connect reports EPOLLOUT when it is over, and SO_ERROR then has its result. To a local
  address it may be over at once, and on a unix socket EAGAIN means that the peer's backlog is full
  (connect(2)).
* Nothing was sent on an attempt that is given up: a server sees a connection that is closed unused.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from .event_loop import WRITABLE, EventLoop
from .protocols.addresses import Address

NEXT_ADDRESS_S = 0.25
"""How long one address is tried before the next is tried, too (RFC 8305 §8)."""


class HappyEyeballs:
    """The attempts to connect for one connection.

    A slow attempt goes on while the next addresses are tried, another one every :data:`NEXT_ADDRESS_S`, and
    at once when one has failed. The first that succeeds is the connection; the others are closed in the same
    step. So a connection slot is one connection, though there may be several attempts at it.

    Args:
        loop: that of this thread.
        addresses: at least one, in the order to try them.
        on_connected: gets the socket, which is not registered with the loop, and its address.
        on_failed: gets the reason and the error numbers when all have failed.

    One of the two is called, once, on the loop's thread, perhaps before :meth:`start` returns, and neither
    after :meth:`close`.
    """

    def __init__(
        self,
        loop: EventLoop,
        addresses: Sequence[Address],
        on_connected: Callable[[socket.socket, Address], None],
        on_failed: Callable[[str, set[int]], None],
    ) -> None:
        self._loop = loop
        self._untried = deque(addresses)
        self._on_connected = on_connected
        self._on_failed = on_failed
        self._attempts: dict[socket.socket, Address] = {}
        self._failures: list[tuple[Address, int]] = []

    def start(self) -> None:
        """Begin with the first address."""
        self._try_next()

    def close(self) -> None:
        """Give up all attempts."""
        self._untried.clear()
        for made in list(self._attempts):
            self._drop(made)
            made.close()

    def _try_next(self) -> None:
        while self._untried:
            address = self._untried.popleft()
            made = None
            try:
                made = socket.socket(address.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
                if address.family in (socket.AF_INET, socket.AF_INET6):
                    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                code = made.connect_ex(address.sockaddr)
                if code in (0, errno.EINPROGRESS):
                    self._loop.register(made.fileno(), partial(self._on_event, made), WRITABLE)
            except OSError as error:
                code = error.errno or errno.EIO
            if made is not None and code in (0, errno.EINPROGRESS):
                self._attempts[made] = address
                if self._untried:
                    self._loop.at(self._loop.now_s + NEXT_ADDRESS_S, partial(self._late, made))
                return
            if made is not None:
                made.close()
            self._failures.append((address, code))
        if not self._attempts:
            self._on_failed(self._why(), {code for _, code in self._failures})

    def _late(self, made: socket.socket, _now_s: float) -> None:
        if made in self._attempts and self._untried:
            self._try_next()

    def _on_event(self, made: socket.socket, _mask: int) -> None:
        code = made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        address = self._drop(made)
        if code:
            made.close()
            self._failures.append((address, code))
            self._try_next()
        else:
            self.close()
            self._on_connected(made, address)

    def _drop(self, made: socket.socket) -> Address:
        self._loop.unregister(made.fileno())
        return self._attempts.pop(made)

    def _why(self) -> str:
        if len(self._failures) == 1:
            return f"cannot connect: {os.strerror(self._failures[0][1])}"
        return "cannot connect: " + "; ".join(
            f"{address}: {os.strerror(code)}" for address, code in self._failures
        )
