"""A client process: the real conversation, and an app that submits."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from reqpool.callback_runner import CallbackRunner
from reqpool.client_conversation import ClientConversation
from reqpool.entry import RequestEntry
from reqpool.future import Future
from reqpool.kinds import Kind, Route
from reqpool.refused_future import Nobody
from reqpool.room import Room
from reqpool.session_protocol import SessionProtocol
from reqpool_contract.counted_log import CountedLog

from .network import Dealer
from .process import Process

if TYPE_CHECKING:
    from .oracle import Asked
    from .world import World

MESSAGES_PER_TURN = 64


class SimulatedKind(Kind):
    """The client half of the upstreams' kinds."""

    def __init__(self, name: str) -> None:
        self.name = name  # type: ignore[misc]

    def encode(self, target: Any, payload: Any, *args: Any, **options: Any) -> Any:
        raise NotImplementedError

    def decode(self, data: bytes, request: Any) -> Any:
        return data


class App(Nobody):
    """The owner of a client's futures. It waits for none, and what is wrong in a callback is raised."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.session_label = name

    def report_callback_error(self, entry: RequestEntry) -> None:
        raise


class ClientProcess(Process):
    """One client process with one session; see :class:`reqpool.client_conversation.Transport`.

    Attributes:
        session_id: the secret.
    """

    turn_delay_s = 0.001

    def __init__(self, world: World, name: str, session_id: bytes, url: str) -> None:
        super().__init__(world, name)
        self.session_id = session_id
        self.blocked = False
        self._intake: Dealer | None = None
        self._results: Dealer | None = None
        self._asking: deque[Asked] = deque()
        self._cancelling: deque[Asked] = deque()
        self._leaving = False
        self._lost = False
        self._pins = 0
        self._app = App(name)
        self._delivery = CallbackRunner(None)
        session = SessionProtocol(session_id, name, 1, self.random.random)
        log = CountedLog(logging.getLogger("reqpool"))
        self.conversation = ClientConversation(url, session, self, self._delivery, Room(), log)
        self.pending = self.conversation.pending
        self.wake_at(world.scheduler.now_s)

    # --- the app ----------------------------------------------------------------------------------

    def ask(self, asked: Asked) -> None:
        """Submit a request, as soon as the process runs."""
        self._asking.append(asked)
        self.stir()

    def cancel(self, asked: Asked) -> None:
        """Cancel one, as soon as the process runs."""
        self._cancelling.append(asked)
        self.stir()

    def leave(self) -> None:
        """Close the pool, as soon as the process runs, and end."""
        self._leaving = True
        self.stir()

    def _submit(self, asked: Asked, now_s: float) -> None:
        conversation = self.conversation
        seq = conversation.next_seq()
        route = self.world.route(asked.plan.upstream, once=asked.plan.once)
        if asked.pin is not None:
            route = Route(route.kind, route.origins, False, b"", asked.pin)
        elif asked.plan.steps is not None:
            self._pins += 1
            asked.pin = self._pins
            route = Route(route.kind, route.origins, False, b"", asked.pin, opens=True)
        future: Future[Any] = Future(
            self._app, seq, route, asked.payload, now_s, now_s + asked.plan.timeout_s, 1, self._ended, asked
        )
        asked.submitted(self, future)
        conversation.pending[seq] = future
        # As a thread does that waits for a lone request, or as the others do.
        if self.random.random() < 0.5 or not conversation.queues.submit_one(future, now_s):
            conversation.queues.outbox.append(future)

    def _ended(self, future: Future[Any]) -> None:
        asked: Asked = future.note
        self.world.oracle.ended(asked, future)
        if asked.pin is None:
            return
        step = asked.step + 1
        if future._code == 0 and step <= (asked.plan.steps or 0) and not self.world.healing:
            self.ask(self.world.oracle.add(asked.plan, step, asked.pin))
        else:
            self.conversation.queues.unpins.append(asked.pin)
            self.stir()

    def _deliver(self) -> None:
        self._delivery.run()
        if self._delivery.errors:  # it goes on with what callbacks raise
            assert self.world.oracle.failure is not None
            raise self.world.oracle.failure

    def lost_connection(self, dealer: Dealer) -> None:
        if dealer in (self._intake, self._results):
            self._lost = True
            self.stir()

    # --- a turn -----------------------------------------------------------------------------------

    def turn(self, now_s: float) -> float:
        conversation = self.conversation
        conversation.take((), now_s)
        for from_intake, frames in self._messages():
            if from_intake or self.random.random() < 0.5:
                conversation.take(((from_intake, frames),), now_s)
            else:
                conversation.take_one(frames, now_s)
        if self._lost and not self._has_messages():
            self._lost = False
            conversation.lose("the connection broke", False, now_s)
        while self._asking:
            self._submit(self._asking.popleft(), now_s)
        while self._cancelling:
            asked = self._cancelling.popleft()
            if asked.future is not None and not asked.ends:
                conversation.cancel(asked.future, now_s)
        if self._leaving:
            conversation.say_goodbye(now_s)
            self.world.oracle.client_gone(self)  # what runs goes on, and nobody waits for it
            conversation.cancel_all("the pool was closed", now_s)
            self._deliver()
            self.die(linger=True)
            return now_s
        unsent = conversation.turn(now_s)
        self._deliver()
        if self._has_messages() or ((unsent or conversation.queues.outbox) and self.has_room()):
            return now_s
        return conversation.due_s(now_s)

    def _has_messages(self) -> bool:
        return bool((self._results and self._results.inbox) or (self._intake and self._intake.inbox))

    def _messages(self) -> Iterator[tuple[bool, list[bytes]]]:
        for socket in (self._results, self._intake):
            for _ in range(MESSAGES_PER_TURN):
                if socket is None or socket.closed or not socket.inbox:
                    break
                yield socket is self._intake, socket.read()

    def buried(self) -> None:
        self.world.oracle.client_gone(self)

    # --- the transport ----------------------------------------------------------------------------

    def dial(self, url: str, hello: bytes) -> None:
        self._intake = Dealer(self.world.network, self, url)
        self._intake.send([hello])

    def subscribe(self, url: str) -> None:
        self._results = Dealer(self.world.network, self, url, self.session_id)

    def hang_up(self) -> None:
        for socket in (self._intake, self._results):
            if socket is not None:
                socket.close()
        self._intake = self._results = None
        self._lost = False

    def submit(self, head: bytes) -> bool:
        return self.has_room() and self.send(head)

    def has_room(self) -> bool:
        return self._intake is not None and not self._lost and self._intake.has_room

    def send(self, head: bytes, *payloads: bytes) -> bool:
        return self._intake is not None and self._intake.send([head, *payloads])


def route_of(kind: Kind, origin: str, *, once: bool) -> Route:
    """A route to a simulated upstream."""
    return Route(kind, (origin,), not once)
