"""A scripted broker: intake ROUTER and results XPUB on a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future as Reply
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any

import zmq

from reqpool_contract import wire
from reqpool_contract.errors import ProtocolError
from reqpool_contract.wire import Reject, Verb

from .wait import wait_until

Answer = Callable[[int, bytes], tuple[int, bytes] | None]


def echo(seq: int, payload: bytes) -> tuple[int, bytes] | None:
    """Answer with the payload."""
    return 0, payload


def silence(seq: int, payload: bytes) -> tuple[int, bytes] | None:
    """Answer nothing."""
    return None


class _Session:
    def __init__(self, topic: bytes) -> None:
        self.topic = topic
        self.route = b""
        self.kept: list[tuple[int, bytes]] = []
        self.number = 0
        self.last_submit = 0
        self.heartbeats = 0
        self.seen = 0
        self.subscribed = False


class FakeBroker:
    """Answers as ``docs/protocol.md`` says, except where a test has told it otherwise.

    Attributes:
        url: the intake's.
        answer: what to answer to a request; may be replaced at any time.
        heads: every head received: verb and fields.
        submitted: sequence number to the flags of each time it came.
        open_to_lose: how many OPENs not to publish.
        batches_to_lose: numbers of result batches that are kept, but not published at first.
        repeat: publish every result batch twice.
        reject: what to answer HELLO with, instead of WELCOME.
        never_ran: for the next WELCOMEs.
        unreadable: payloads that make a SUBMIT malformed.
        results_port: what WELCOME says of the results socket.
        keeps: likewise of how many settings are kept; None: nothing, as an older broker.
    """

    heartbeat_ms: int = 50
    liveness_ms: int = 400

    def __init__(self, answer: Answer = echo, *, port: int = 0) -> None:
        self.answer = answer
        self.heads: list[tuple[Verb, list[Any]]] = []
        self.submitted: dict[int, list[int]] = {}
        self.open_to_lose = 0
        self.batches_to_lose: set[int] = set()
        self.repeat = False
        self.reject: tuple[int, str, dict[str, Any]] | None = None
        self.never_ran: list[tuple[int, int]] = []
        self.unreadable: set[bytes] = set()
        self.keeps: int | None = wire.SESSION_KEEPS
        self.epoch = 1
        self._context = zmq.Context()
        self._orders: SimpleQueue[tuple[Callable[[], Any], Reply[Any]]] = SimpleQueue()
        self._port = port
        self._sessions: dict[bytes, _Session] = {}
        self._ending = False
        self._failure: BaseException | None = None
        self._bind()
        self.url = f"tcp://127.0.0.1:{self._port}"
        self._thread = threading.Thread(target=self._run, name="fake-broker")
        self._thread.start()

    def __enter__(self) -> FakeBroker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ending = True
        self._thread.join()
        self._context.destroy(linger=0)
        if self._failure is not None:
            raise self._failure

    # --- for the test's thread ------------------------------------------------------------------

    def count(self, verb: Verb) -> int:
        """Return how many heads with this verb have come."""
        return sum(head[0] is verb for head in list(self.heads))

    def do(self, order: Callable[[], Any]) -> Any:
        """Run something on the broker's thread and return what it returns."""
        reply: Reply[Any] = Reply()
        self._orders.put((order, reply))
        return reply.result(10)

    def restart(self, *, keep_epoch: bool = False) -> None:
        """Be killed, and come back at the same URL: as a new epoch, or as the same that forgot nothing."""

        def order() -> None:
            self._close()
            if keep_epoch:
                sessions = self._sessions
                self._bind()
                self._sessions = sessions
                for session in sessions.values():
                    session.subscribed = False
            else:
                self.epoch += 1
                self._bind()

        self.do(order)

    def vanish(self) -> None:
        """Be killed, and be away until :meth:`restart`."""
        self.do(self._close)

    def finish(self, seq: int, code: int = 0, data: bytes = b"late") -> None:
        """Publish one result to the latest session."""
        self.do(lambda: self._publish_results(self.latest(), [seq, code, data]))

    def publish_blob(self, blob: bytes) -> None:
        """Publish one blob, legal or not, as the next batch of the latest session."""

        def order() -> None:
            session = self.latest()
            session.number += 1
            session.kept.append((session.number, blob))
            self._republish(session, session.number - 1)

        self.do(order)

    def publish(self, verb: Verb, *values: Any) -> None:
        """Publish one head to the latest session."""
        self.do(lambda: self._publish(self.latest(), wire.encode(verb, *values)))

    def send_junk(self, frame: bytes) -> None:
        """Send and publish one frame as it is to the latest session."""
        self.do(lambda: self._publish(self.latest(), frame))
        self.do(lambda: self._intake.send_multipart([self.latest().route, frame]))

    def lose_a_submit(self) -> None:
        """Find a gap in the numbers at the next SUBMIT of the latest session."""
        self.do(lambda: setattr(self.latest(), "last_submit", 77))

    def latest(self) -> _Session:
        """Return the session that said HELLO first last."""
        return list(self._sessions.values())[-1]

    # --- the broker's thread --------------------------------------------------------------------

    def _bind(self) -> None:
        self._intake = self._context.socket(zmq.ROUTER)
        self._results = self._context.socket(zmq.XPUB)
        for socket in (self._intake, self._results):
            socket.setsockopt(zmq.LINGER, 0)
        self._results.setsockopt(zmq.XPUB_MANUAL, 1)
        wait_until(self._is_bound, 5.0, "the port is free")
        self._port = int(self._intake.get_string(zmq.LAST_ENDPOINT).rpartition(":")[2])
        self.results_port = str(self._results.bind_to_random_port("tcp://127.0.0.1"))
        self._sessions = {}

    def _is_bound(self) -> bool:
        try:
            self._intake.bind(f"tcp://127.0.0.1:{self._port or '*'}")
        except zmq.ZMQError:  # the old socket is closed by a thread of ZeroMQ's
            return False
        return True

    def _close(self) -> None:
        self._intake.close(0)
        self._results.close(0)

    def _run(self) -> None:
        try:
            next_heartbeat_s = 0.0
            while not self._ending:
                poller = zmq.Poller()
                for socket in (self._intake, self._results):
                    if not socket.closed:
                        poller.register(socket, zmq.POLLIN)
                ready = dict(poller.poll(5))
                if self._results in ready:
                    self._subscription(self._results.recv())
                if self._intake in ready:
                    self._message(*self._intake.recv_multipart())
                try:
                    order, reply = self._orders.get_nowait()
                except Empty:
                    pass
                else:
                    reply.set_result(order())
                if time.monotonic() >= next_heartbeat_s:
                    next_heartbeat_s = time.monotonic() + self.heartbeat_ms / 1000
                    for session in self._sessions.values():
                        self._heartbeat(session)
        except BaseException as error:
            self._failure = error
        finally:
            self._close()

    def _heartbeat(self, session: _Session) -> None:
        if session.subscribed and not self._results.closed:
            session.heartbeats += 1
            numbers = session.heartbeats, session.seen, session.last_submit, session.number
            self._publish(session, wire.encode(Verb.HEARTBEAT, self.epoch, *numbers))

    def _subscription(self, frame: bytes) -> None:
        session = self._sessions.get(frame[1:])
        if frame[:1] == b"\x01" and session is not None:
            self._results.setsockopt(zmq.SUBSCRIBE, session.topic)
            if self.open_to_lose:
                self.open_to_lose -= 1
                return
            session.subscribed = True
            self._publish(session, wire.encode(Verb.OPEN, self.epoch))

    def _publish(self, session: _Session, head: bytes, *blobs: bytes) -> None:
        self._results.send_multipart([session.topic, head, *blobs])

    def _publish_results(self, session: _Session, flat: list[Any]) -> None:
        session.number += 1
        session.kept.append((session.number, wire.encode_blob(flat)))
        if session.number in self.batches_to_lose:
            self.batches_to_lose.discard(session.number)
            return
        for _ in range(2 if self.repeat else 1):
            self._republish(session, session.number - 1)

    def _republish(self, session: _Session, after: int) -> None:
        for number, blob in session.kept:
            if number > after:
                self._publish(
                    session, wire.encode(Verb.RESULTS, self.epoch, number, session.last_submit), blob
                )

    def _message(self, route: bytes, head: bytes) -> None:
        try:
            verb, fields = wire.decode(head, wire.CLIENT_TO_BROKER)
            self.heads.append((verb, fields))
            if verb is Verb.SUBMIT and any(self.unreadable.intersection(g.payloads) for g in fields[2]):
                raise ProtocolError("gibberish")
        except ProtocolError as error:
            self._intake.send_multipart([route, wire.encode(Verb.REJECT, Reject.MALFORMED, error.text, {})])
            return
        if verb is Verb.HELLO:
            self._hello(route, fields[2])
            return
        session = next((session for session in self._sessions.values() if session.route == route), None)
        if session is None:
            self._intake.send_multipart([route, wire.encode(Verb.REJECT, Reject.UNKNOWN, "who?", {})])
        elif verb is Verb.HEARTBEAT:
            session.seen = fields[0]
        elif verb is Verb.RESEND:
            self._republish(session, fields[0])
        elif verb is Verb.SUBMIT:
            self._submit(session, *fields)

    def _hello(self, route: bytes, about: dict[str, Any]) -> None:
        if self.reject is not None:
            self._intake.send_multipart([route, wire.encode(Verb.REJECT, *self.reject)])
            return
        resumed = about["session"] in self._sessions and about.get("epoch") == self.epoch
        session = self._sessions.setdefault(about["session"], _Session(about["session"]))
        session.route = route
        session.last_submit = session.seen = 0
        session.subscribed = False
        session.kept = [(number, blob) for number, blob in session.kept if number > about["received"]]
        welcome = {
            "epoch": self.epoch,
            "results": self.results_port,
            "heartbeat_ms": self.heartbeat_ms,
            "liveness_ms": self.liveness_ms,
            "resumed": resumed,
            "max_pending": 1000,
            "never_ran": self.never_ran,
        }
        if self.keeps is not None:
            welcome["keeps"] = self.keeps
        self._intake.send_multipart([route, wire.encode(Verb.WELCOME, wire.VERSION, welcome)])

    def _submit(self, session: _Session, number: int, acked: int, groups: list[wire.SubmitGroup]) -> None:
        if number != session.last_submit + 1:
            self._intake.send_multipart([session.route, wire.encode(Verb.REJECT, Reject.GAP, "gap", {})])
            return
        session.last_submit = number
        flat: list[Any] = []
        for group in groups:
            for seq, payload in zip(group.seqs, group.payloads, strict=True):
                self.submitted.setdefault(seq, []).append(group.flags)
                outcome = self.answer(seq, payload)
                if outcome is not None:
                    flat += [seq, *outcome]
        if flat:
            self._publish_results(session, flat)
