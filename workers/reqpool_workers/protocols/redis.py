"""Redis: commands of many, pipelined on one connection; replies come in the order of the commands.

Payload and answer: see :mod:`reqpool.kinds.redis` and :mod:`reqpool_contract.payloads.redis_reply`. Payloads
are trusted to be whole commands that leave the connection as it is, and checked where they are made.

A connection of the variants ``exclusive`` and ``alone`` has one command at a time, so that bytes beyond its
reply are seen: before a fix of July 2026 (redis PR 15496) Redis wrote errors and statuses with line ends in
them as they were, and what stands behind such a line end reads like the next reply. Commands by which that
can come about are sent on such connections only (:mod:`reqpool.kinds.redis_commands`).
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

from reqpool_contract.errors import BadResponse, ConnectFailed, UsageError
from reqpool_contract.origin_names import upstream_of
from reqpool_contract.payloads.redis_command import ALONE_VARIANT, MULTI, pack
from reqpool_contract.payloads.redis_reply import BULK, NOT_QUEUED, value_of

from . import (
    READY,
    Address,
    Answer,
    Event,
    Name,
    Refused,
    StreamKind,
    StreamProtocol,
    served_host,
    settings_of,
    stream_address,
)
from .addresses import unix_address
from .redis_framer import Framer

CLIENT_NAME = "reqpool"
"""What CLIENT LIST shows."""
MAX_NAMELESS = 1024

_nameless: dict[str, None] = {}
"""Upstreams that refuse CLIENT SETNAME, or close the connection on it, as twemproxy does on commands that it
does not know. They are sent a PING instead."""

_CUT = re.compile(rb"(?:\A|\r\n)(?:-(?!NOSCRIPT No matching script)|\+(?!(?:OK|QUEUED|PONG)\r\n))")
"""In a reply: a line whose text may have had a line end in it, and then goes on behind the reply."""


class RedisConnection(StreamProtocol):
    """One connection: logs in, then commands go out and replies come in.

    Args:
        origin: see :mod:`reqpool.kinds.redis`.
        settings: ``password``.
        max_bytes: of a reply.
    """

    # Attributes, since they are looked at after each answer.
    reusable = True
    unclean = False

    def __init__(self, origin: str, settings: bytes, max_bytes: int) -> None:
        parts = urlsplit(origin)
        variants = parts.query.split("&")
        protocol = 3 if "resp3" in variants else 2
        user, _, db = (parts.username or "").partition(";db=")
        if parts.scheme != "unix":
            db = parts.path.strip("/")
        password = settings_of(settings).get("password")
        self._password = password if isinstance(password, str) else ""
        self._upstream = upstream_of(origin)
        named = self._upstream not in _nameless
        self._greeting = _greeting(unquote(user), password, db or "0", protocol, named)
        self._framer = Framer(protocol, max_bytes)
        self._exclusive = "exclusive" in variants or ALONE_VARIANT in variants
        self._held = False
        self._pushes = protocol == 3
        self._steps: deque[str] = deque()
        """What the handshake still waits for."""
        self._asked = 0
        self._answered = 0
        self._transactions: deque[_Transaction] = deque()

    def connected(self) -> Sequence[Event]:
        return self._shake_hands(self._greeting)

    def _shake_hands(self, commands: Sequence[tuple[str, bytes]]) -> Sequence[Event]:
        self._steps.extend(step for step, _ in commands)
        return [b"".join(command for _, command in commands)]

    def send(self, request: Any) -> bytes:
        payload: bytes = request.payload
        if payload[:1] == MULTI:
            payload = self._send_transaction(payload)
        self._asked += 1
        return payload

    def send_all(self, requests: Sequence[Any]) -> bytes | None:
        payloads: list[bytes] = [request.payload for request in requests]
        if MULTI in {payload[:1] for payload in payloads}:
            return None
        self._asked += len(payloads)
        return b"".join(payloads)

    def _send_transaction(self, payload: bytes) -> bytes:
        replies = int.from_bytes(payload[1:5], "big")
        if replies < 3 or not payload.endswith(b"\r\n"):
            raise UsageError("payload is not M, a number of replies, and as many commands")
        self._transactions.append(_Transaction(self._asked, replies))
        return payload[5:]

    def feed(self, data: bytes) -> Sequence[Event]:
        if self._answered == self._asked and not self._steps and not self._may_come_unasked(data):
            raise BadResponse(f"unsolicited data from Redis: {data[:40]!r}")
        answers: list[Answer | Refused] = self._framer.feed(data)
        self.reusable = not self._framer.unfinished
        if self._steps or self._transactions or self._exclusive or self._framer.broken is not None:
            return self._look_at(answers)
        self._answered += len(answers)
        return answers

    def _look_at(self, answers: list[Answer | Refused]) -> Sequence[Event]:
        """What is not plainly one answer for each reply."""
        broken = self._framer.broken
        if self._steps:
            if broken is not None:
                raise broken
            return self._step(answers)
        events = self._gather(answers)
        if self._exclusive and events:
            self._check_alone(events)
        if broken is not None:
            if not events:
                raise broken
            events.append(broken)  # what came before it are right answers, and end as such
        return events

    def _check_alone(self, events: list[Event]) -> None:
        """See that the command's reply is all that came."""
        if self._answered > self._asked or self._framer.begun or self._framer.broken is not None:
            raise BadResponse(
                "Redis sent more than the reply to this command: most likely a line end in an error's text"
            )
        answer = events[-1]
        # On a session's own connection, more can harm no other client.
        cut = (
            not self._held
            and isinstance(answer, tuple)
            and answer[1][:1] != BULK
            and _CUT.search(answer[1]) is not None
        )
        self.reusable = self.reusable and not cut

    def _may_come_unasked(self, data: bytes) -> bool:
        return self._pushes and (self._framer.begun or data[:1] == b">")

    def _step(self, answers: list[Answer | Refused]) -> Sequence[Event]:
        for answer in answers:
            if isinstance(answer, Refused):
                raise answer.error
            reply = answer[1]
            if not self._steps:
                raise BadResponse(f"unsolicited data from Redis: {reply[:40]!r}")
            step = self._steps.popleft()
            if _is_error(reply):
                text = self._without_password(value_of(reply).text)
                if step not in _OPTIONAL or text.startswith(_NO_ENTRY):
                    raise ConnectFailed(f"Redis refused the connection at {step}: {text}")
                if step == _NAMING and text.startswith(_NO_NAME):
                    self._forgo_name()
        return [] if self._steps else [READY]

    def _without_password(self, text: str) -> str:
        """A server that does not know AUTH or HELLO repeats their arguments: Redis before 6, and proxies."""
        text = text.partition(", with args beginning with")[0]
        return text.replace(self._password, "***") if self._password else text

    def _gather(self, answers: list[Answer | Refused]) -> list[Event]:
        """Join the replies to each transaction."""
        gathered: list[Event] = []
        for answer in answers:
            if self._transactions and self._transactions[0].number == self._answered:
                transaction = self._transactions[0]
                transaction.take(answer)
                if transaction.replies:
                    continue
                self._transactions.popleft()
                # EXEC fails because of what was not queued, and its own error says only that.
                answer = transaction.outcome or answer
            gathered.append(answer)
            self._answered += 1
        return gathered

    def shorten_handshake(self) -> bool:
        if _NAMING not in self._steps:
            _nameless.pop(self._upstream, None)  # the name was not the reason
            return False
        self._forgo_name()
        return True

    def _forgo_name(self) -> None:
        if len(_nameless) >= MAX_NAMELESS:
            _nameless.clear()
        _nameless[self._upstream] = None

    def eof(self) -> Sequence[Event]:
        return []

    def hold(self) -> Sequence[Event]:
        self._held = True
        return [READY]

    @property
    def begun(self) -> bool:
        if self._framer.begun:
            return True
        return bool(self._transactions) and self._transactions[0].has_begun(self._answered)

    def release(self) -> Sequence[Event] | None:
        if self._steps or self._framer.begun or self._answered != self._asked:
            return None
        self._held = False
        # Since Redis 6.2. An older one refuses it, and the connection is closed.
        return self._shake_hands((("RESET", pack(("RESET",))), *self._greeting))


class _Transaction:
    """MULTI, commands and EXEC that were sent together.

    Attributes:
        number: how many requests were sent before.
        replies: how many replies are still to come.
        outcome: the answer, if it is not EXEC's reply: the first reply that is an error or was refused.
    """

    __slots__ = ("number", "outcome", "replies", "sent")

    def __init__(self, number: int, replies: int) -> None:
        self.number = number
        self.replies = self.sent = replies
        self.outcome: Answer | Refused | None = None

    def take(self, answer: Answer | Refused) -> None:
        """The next reply has come."""
        position = self.sent - self.replies
        self.replies -= 1
        if self.outcome is not None:
            return
        if isinstance(answer, Refused):
            self.outcome = answer
        elif self.replies and _is_error(answer[1]):
            # Of MULTI itself (position 0) it is the server that refuses, not a command that is refused.
            head = NOT_QUEUED + position.to_bytes(4, "big") if position else b""
            self.outcome = (answer[0], head + answer[1])

    def has_begun(self, answered: int) -> bool:
        return self.number == answered and self.replies < self.sent


_NAMING, _PROBE = "CLIENT SETNAME", "PING"
_OPTIONAL = frozenset((_NAMING, _PROBE))
"""Steps of the handshake without which the connection is good enough."""
_NO_ENTRY = ("NOAUTH", "DENIED", "ERR max number of clients")
"""Errors that are the answer to the connection, not to its first command; others leave it without a name."""
_NO_NAME = ("ERR", "NOPERM")
"""Of those, the ones that will be the same next time."""


def _is_error(reply: bytes) -> bool:
    return reply[:1] in (b"-", b"!")


def _greeting(user: str, password: object, db: str, protocol: int, named: bool) -> list[tuple[str, bytes]]:
    """Return the commands of the handshake: what each is called in errors, and its bytes."""
    secret = password if isinstance(password, str) else ""
    commands: list[tuple[str, bytes]] = []
    if protocol == 3:
        log_in = ("AUTH", user or "default", secret) if user or secret else ()
        commands.append(("HELLO", pack(("HELLO", "3", *log_in))))
    elif user or secret:
        commands.append(("AUTH", pack(("AUTH", user, secret) if user else ("AUTH", secret))))
    # First of all where there is no log-in, so that "NOAUTH" is said here.
    if named:
        commands.append((_NAMING, pack(("CLIENT", "SETNAME", CLIENT_NAME))))
    else:
        commands.append((_PROBE, pack(("PING",))))
    if db != "0":
        commands.append((f"SELECT {db}", pack(("SELECT", db))))
    return commands


def _address(origin: str) -> Address | Name:
    parts = urlsplit(origin)
    return unix_address(unquote(parts.path)) if parts.scheme == "unix" else stream_address(origin)


def _protocol(origin: str, settings: bytes, max_bytes: int) -> StreamProtocol:
    connection = RedisConnection(origin, settings, max_bytes)
    if not origin.startswith("rediss:"):
        return connection
    from .tls_stream import wrap  # here: workers of plain connections need no ssl

    secured: StreamProtocol = wrap(connection, settings_of(settings).get("tls") or {}, served_host(origin))
    return secured


WORKER_KIND = StreamKind(name="redis", limit=64, address=_address, protocol=_protocol, depth=128)
EXCLUSIVE_WORKER_KIND = StreamKind(
    name="redis-exclusive",
    limit=64,
    address=_address,
    protocol=_protocol,
    depth=1,
    waits=True,
    prompt_variant=ALONE_VARIANT,
)
