"""A session's two sockets, and what its loop sleeps on: an epoll with both and a wake-up.

Facts it relies on:

* ``ZMQ_FD`` is edge-triggered: see :mod:`reqpool_contract.zmq_sockets` for when a socket must be asked before
  sleeping.
* A ZeroMQ socket belongs to one thread at a time: the one that takes the turn, see :mod:`.driver`. Only
  :meth:`BrokerSockets.wake` may be called from any.
* What sits in an old socket's pipe may be delivered later, to the next broker: on loss both sockets
  are closed with linger 0 and new ones opened.
* What a socket received before its connection broke can still be read, and is, before the loss is reported.
* libzmq's pause between attempts grows only while connections are refused: after a connection was made,
  however short, the next attempt is the first again (``stream_connecter_base.cpp`` of 4.3.5: each connection
  makes a new connecter). So it is not left to libzmq to come back to a broker that turns connections away.
* libzmq ends the process with SIGABRT if it finds no file descriptor for a thread's epoll or for a socket's
  mailbox (``epoll.cpp:38``, ``signaler.cpp``). So there have to be some before it opens anything.
"""

from __future__ import annotations

import logging
import math
import select
from collections.abc import Iterator
from time import monotonic

import zmq

from reqpool_contract import descriptors, socket_owner, wire, zmq_sockets
from reqpool_contract.socket_monitor import Monitor, Reach

from .listener_probe import ListenerProbe, Loss
from .watched_fds import WatchedFds

log = logging.getLogger("reqpool")

MESSAGES_PER_TURN = 64
"""Most messages read from a socket, and batches sent, before timers are looked at again."""
SEND_QUEUE_MESSAGES = 256
"""ZMQ_SNDHWM of the intake socket: what is over it stays in the outbox."""
RECONNECT_MS = 100
"""How often libzmq tries to connect: a broker that is back is found within that."""
RECONNECT_LATER_MS = 1_000
"""The same after :data:`PATIENT_DIALS` that found no listener (10 s)."""
PATIENT_DIALS = 4
ASK_S = 0.25
"""How long the intake socket, which was sent on, need not be asked while the results socket is open."""
TURNED_AWAY = "a broker listens there, but turns connections away; its log says why"


class BrokerSockets:
    """The sockets of one connection at a time.

    Attributes:
        blocked: the intake socket took no more when last asked.
        abandoned: this is a forked child: no socket is touched any more. libzmq would answer every call with
            EINTR, and pyzmq would try again for ever.
        loss: the connection broke, and all that came through it has been read; until :meth:`hang_up`.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], topic: bytes) -> None:
        """Open nothing yet.

        Args:
            context: this process's.
            topic: what to subscribe to, the session id.
        """
        self.blocked = False
        self.abandoned = False
        self.loss: Loss | None = None
        self._context = context
        self._topic = topic
        self._url = ""
        self._intake: zmq.Socket[bytes] | None = None
        self._results: zmq.Socket[bytes] | None = None
        self._intake_fd = self._results_fd = -1
        self._intake_monitor: Monitor | None = None
        self._results_monitor: Monitor | None = None
        self._dials = 0
        self._ending: Loss | None = None
        self._readable: set[int] = set()
        self._polled = False
        self._intake_sent = False
        self._ask_s = 0.0
        self._unasked = False
        """A message was taken from the results socket, which was not asked yet whether there is another."""
        self._promised = False
        self._stalled: list[bytes] | None = None
        """A message that was promised room and found none: nothing goes out before it."""
        self._watched = WatchedFds()
        self._epoll = self._watched.epoll
        self._probe = ListenerProbe(context, self._watched)

    def wake(self) -> None:
        """End a sleep, or the next one. From any thread."""
        self._watched.wake()

    def abandon(self) -> None:
        """Touch no socket any more: this is a forked child. From whatever is being done with them."""
        self.abandoned = True
        # pyzmq closes no socket of another process; dropping them is safe.
        self._intake = self._results = None
        self._readable.clear()

    # --- opening and closing --------------------------------------------------------------------

    def dial(self, url: str, hello: bytes) -> None:
        """Open the intake socket and send ``hello``.

        Raises:
            OSError: if it cannot be, or belongs to another user; none is open then.
        """
        descriptors.check_spare()
        socket_owner.check(url)
        self._url = url
        self._dials += 1
        with zmq_sockets.os_errors():
            self._intake, self._intake_fd, self._intake_monitor = self._open(zmq.DEALER, url)
            self.send(hello)

    def subscribe(self, url: str) -> None:
        """Open the results socket.

        Raises:
            OSError: if it cannot be; none is open then.
        """
        descriptors.check_spare()
        with zmq_sockets.os_errors():
            self._results, self._results_fd, self._results_monitor = self._open(zmq.SUB, url)

    def _open(self, kind: int, url: str) -> tuple[zmq.Socket[bytes], int, Monitor]:
        socket: zmq.Socket[bytes] = self._context.socket(kind)
        monitor = None
        try:
            reconnect_ms = RECONNECT_MS if self._dials <= PATIENT_DIALS else RECONNECT_LATER_MS
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.MAXMSGSIZE, wire.MAX_MESSAGE_BYTES)
            socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
            socket.setsockopt(zmq.RECONNECT_IVL_MAX, reconnect_ms)
            socket.setsockopt(zmq.SNDHWM, SEND_QUEUE_MESSAGES)
            if "[" in url:
                socket.setsockopt(zmq.IPV6, 1)
            if kind == zmq.SUB:
                socket.setsockopt(zmq.SUBSCRIBE, self._topic)
            monitor = Monitor(self._context, socket)
            socket.connect(url)
            fd = int(socket.FD)
            self._epoll.register(fd, select.EPOLLIN)
        except BaseException:
            if monitor is not None:
                monitor.close()
            socket.close(0)
            raise
        self._watched.add(monitor.fd, lambda: self._note(monitor))
        return socket, fd, monitor

    def hang_up(self, linger_ms: int = 0) -> None:
        """Close both sockets; what was received and not read is dropped."""
        self._probe.end()
        for monitor in (self._intake_monitor, self._results_monitor):
            if monitor is not None:
                self._watched.remove(monitor.fd)
                monitor.close()
        for socket, fd in ((self._intake, self._intake_fd), (self._results, self._results_fd)):
            if socket is not None:
                self._epoll.unregister(fd)
                socket.close(linger_ms)
        self._intake = self._results = None
        self._intake_monitor = self._results_monitor = None
        self.loss = self._ending = None
        self._promised, self._stalled, self._unasked = False, None, False
        self._readable.clear()

    def close(self, linger_ms: int) -> None:
        """Close everything for good but the wake-up."""
        self.hang_up(linger_ms)
        self._epoll.close()

    # --- writing and reading --------------------------------------------------------------------

    def has_room(self) -> bool:
        """Return whether the next message will certainly be taken.

        It will not once the connection broke, while what came through it is still being read.
        The intake socket is asked only where it was full: it rarely is, and a message that finds it full is
        kept back here.
        """
        if self._intake is None or self._ending is not None:
            return False
        if self.blocked:
            self._ask()
            if self.blocked:
                return False
        self._promised = True
        return True

    def send(self, head: bytes, *payloads: bytes) -> bool:
        """Send one message through the intake socket; never blocks. Returns False if it was not taken."""
        if self._intake is None:
            return False
        self._intake_sent = True
        promised, self._promised = self._promised, False
        frames = [head, *payloads]
        try:
            if self._stalled is not None:
                zmq_sockets.send(self._intake, self._stalled)
                self._stalled = None
            zmq_sockets.send(self._intake, frames)
        except zmq.Again:
            self.blocked = True
            if promised and self._stalled is None:
                self._stalled = frames
                return True
            # A heartbeat or the like that finds the queue full: liveness decides what comes of it.
            log.debug("the broker accepts no more messages for now")
            return False
        return True

    def submit(self, head: bytes) -> bool:
        """Send one message of one frame while the intake socket is not ``blocked``; never blocks.

        A message that finds no room after all is kept back here. Returns False if there is no connection.
        """
        if self._intake is None or self._ending is not None or self._stalled is not None:
            return False
        self._intake_sent = True
        try:
            zmq_sockets.send_frame(self._intake, head, zmq_sockets.NOBLOCK, True)
        except zmq.Again:
            self.blocked = True
            self._stalled = [head]
        return True

    def has_messages(self) -> bool:
        """Return whether there is more to be read at once. Asks the intake socket if needed before a sleep.

        With a results socket open, only a REJECT still comes through the other one. One that came while this
        thread was sending is found with the next heartbeat.
        """
        if self._unasked:
            self._unasked = False
            self._readable.add(self._results_fd)
        if self._intake_sent and (self._results is None or self.blocked or monotonic() >= self._ask_s):
            self._ask()
        return bool(self._readable)

    def _ask(self) -> None:
        """Ask the intake socket what can be done; send the message kept back, if it can."""
        self._intake_sent = False
        if self._intake is None:
            return
        self._ask_s = monotonic() + ASK_S
        readable, writable = zmq_sockets.events(self._intake)
        self.blocked = not writable
        if readable:
            self._readable.add(self._intake_fd)
        if writable and self._stalled is not None:
            self._intake_sent = True
            zmq_sockets.send(self._intake, self._stalled)
            self._stalled = None

    def sleep(self, span_s: float) -> None:
        """Sleep until a socket may be read, or a wake-up, or ``span_s``."""
        self._polled = True
        if self._probe.due_s != math.inf:
            span_s = min(span_s, self._probe.due_s - monotonic())
        told = self._epoll.poll(max(0.0, span_s))
        if self.abandoned:
            return
        self._hear(told)
        if self._probe.due_s != math.inf and monotonic() >= self._probe.due_s:
            self._probe.turn(self._url)
        if self._probe.loss is not None:
            self.loss, self._probe.loss = self._probe.loss, None

    def _hear(self, told: list[tuple[int, int]]) -> None:
        on_news = self._watched.on_news
        for fd, _ in told:
            if fd in on_news:
                on_news[fd]()
            else:
                self._readable.add(fd)

    def await_results(self, span_s: float) -> list[bytes] | None:
        """Sleep for ``span_s`` at most until a message comes through the results socket, and take it.

        Returns:
            Its frames; None if there is none, or there is something else to look at: then the caller takes a
            turn in full.
        """
        socket, monitor = self._results, self._results_monitor
        if (
            socket is None
            or monitor is None
            or monitor.reach is not Reach.STANDING
            or self._ending is not None
            or self._readable
            or self._probe.due_s != math.inf
        ):
            return None
        if not self._unasked or not zmq_sockets.readable(socket):
            self._unasked = False
            told = self._epoll.poll(span_s)
            if self.abandoned:
                return None
            if len(told) != 1 or told[0][0] != self._results_fd:
                self._hear(told)
                return None
        self._unasked = True
        try:
            return zmq_sockets.receive(socket)
        except zmq.Again:
            self._unasked = False
            return None

    def messages(self) -> Iterator[tuple[bool, list[bytes]]]:
        """Take what has come in, up to a limit; hanging up meanwhile ends it.

        Yields:
            True if it came through the intake socket, False if through the results socket; its frames.
        """
        if not self._polled:
            # There was work at once, turn after turn perhaps: the loss of the connection must not wait for
            # the end of it.
            self.sleep(0.0)
        self._polled = False
        readable, self._readable = self._readable, set()
        if self.blocked:
            # The fd may have reported room: POLLOUT is not asked for by itself.
            self._intake_sent = True
        for socket, fd, monitor in (
            (self._results, self._results_fd, self._results_monitor),
            (self._intake, self._intake_fd, self._intake_monitor),
        ):
            if socket is None or monitor is None or socket.closed or fd not in readable:
                continue
            if monitor.reach is not Reach.STANDING and not self._speaks(socket, monitor):
                continue
            from_intake = socket is self._intake
            for _ in range(MESSAGES_PER_TURN):
                try:
                    frames = zmq_sockets.receive(socket)
                except zmq.Again:
                    break
                yield from_intake, frames
                # Both are closed when one of them brings the session's loss.
                if socket.closed or not zmq_sockets.readable(socket):
                    break
            else:
                self._readable.add(fd)
        if self._ending is not None and not self._readable:
            self.loss = self._ending

    # --- what becomes of the connection -----------------------------------------------------------

    def _note(self, monitor: Monitor) -> None:
        """See what has become of a connection."""
        reach = monitor.read()
        ending = Loss(reach.value, reach is Reach.FOREIGN and monitor is self._intake_monitor)
        if monitor is self._intake_monitor:
            if reach is not Reach.NOBODY:  # it is not away
                self._dials = 0
            match reach:
                case Reach.ACCEPTED:
                    self._probe.expect()
                    return
                case Reach.BROKEN_OFF:
                    if not self._probe.greeted:
                        self._probe.suspect()
                        return
                    ending = Loss(TURNED_AWAY)
                case Reach.STANDING:
                    self._probe.greeted = False
                    self._probe.end()
        if reach is Reach.STANDING:
            # What came before this was known was left unread.
            self._readable.add(self._intake_fd if monitor is self._intake_monitor else self._results_fd)
        if reach in (Reach.BROKEN_OFF, Reach.LOST, Reach.FOREIGN):
            self._ending = ending
            self._readable |= {self._intake_fd, self._results_fd}

    def _speaks(self, socket: zmq.Socket[bytes], monitor: Monitor) -> bool:
        """Return whether the peer is known by now to speak ZMTP: only then what it sends is a message."""
        if not zmq_sockets.readable(socket):
            return False
        self._note(monitor)
        if monitor.reach in (Reach.STANDING, Reach.LOST):
            return True
        self._probe.suspect()
        return False
