"""A client's conversation, with a transport and a broker that are scripted."""

from __future__ import annotations

import logging
from typing import Any

from reqpool.callback_runner import CallbackRunner
from reqpool.client_conversation import ClientConversation
from reqpool.future import Future
from reqpool.kinds import Route
from reqpool.refused_future import NOBODY
from reqpool.room import Room
from reqpool.session_protocol import SessionProtocol
from reqpool.session_state import SessionState
from reqpool_contract import wire
from reqpool_contract.counted_log import CountedLog
from reqpool_contract.wire import Verb

from .plain import KIND

URL = "tcp://cluster:5570"
ROUTE = Route(KIND, ("plain://one",), False)


class Transport:
    """Takes everything, and keeps it.

    Attributes:
        sent: what went out through the intake socket of the connection, decoded.
        dials: URLs of intake sockets, oldest first.
        subscribed: URL of the results socket, None while there is none.
        cannot_dial: raised at the next dials.
    """

    def __init__(self) -> None:
        self.blocked = False
        self.sent: list[tuple[Verb, list[Any]]] = []
        self.dials: list[str] = []
        self.subscribed: str | None = None
        self.cannot_dial: OSError | None = None

    def dial(self, url: str, hello: bytes) -> None:
        self.dials.append(url)
        if self.cannot_dial is not None:
            raise self.cannot_dial
        self.send(hello)

    def subscribe(self, url: str) -> None:
        self.subscribed = url

    def hang_up(self) -> None:
        self.subscribed = None
        self.sent.clear()

    def has_room(self) -> bool:
        return not self.blocked

    def submit(self, head: bytes) -> bool:
        return self.send(head)

    def send(self, head: bytes, *payloads: bytes) -> bool:
        self.sent.append(wire.decode(head, wire.CLIENT_TO_BROKER, payloads))
        return True

    def submits(self) -> list[list[wire.SubmitGroup]]:
        return [fields[2] for verb, fields in self.sent if verb is Verb.SUBMIT]


class Talk:
    """A conversation, the broker's lines in it, and what was submitted."""

    def __init__(self) -> None:
        self.transport = Transport()
        session = SessionProtocol(b"s" * 16, "test", 1, random_unit=lambda: 1.0)
        log = CountedLog(logging.getLogger("reqpool"))
        self.delivery = CallbackRunner(None)
        self.conversation = ClientConversation(URL, session, self.transport, self.delivery, Room(), log)
        self.session = session

    def submit(self, payload: bytes, now_s: float, timeout_s: float = 20.0) -> Future[Any]:
        conversation = self.conversation
        seq = conversation.next_seq()
        future: Future[Any] = Future(NOBODY, seq, ROUTE, payload, now_s, now_s + timeout_s, 1, None)
        conversation.pending[seq] = future
        conversation.queues.outbox.append(future)
        return future

    def welcome(self, now_s: float, epoch: int = 7) -> None:
        about = {"epoch": epoch, "results": "5571", "heartbeat_ms": 500, "liveness_ms": 2_500}
        self.conversation.take([(True, [wire.encode(Verb.WELCOME, wire.VERSION, about)])], now_s)

    def publish(self, now_s: float, *frames: bytes) -> None:
        self.conversation.take([(False, [b"s" * 16, *frames])], now_s)

    def open(self, now_s: float, epoch: int = 7) -> None:
        self.conversation.turn(now_s)
        self.welcome(now_s, epoch)
        self.publish(now_s, wire.encode(Verb.OPEN, epoch))
        assert self.session.state is SessionState.OPEN
