"""One connection to MySQL or MariaDB: one statement at a time.

Payloads and answers are described in :mod:`reqpool_contract.payloads.mysql`.

:mod:`.mysql_session_state` decides what the connection may be used for and what must be undone before that;
:mod:`.mysql_prepared` decides which statements are prepared. A statement runs once, by its EXECUTE or by its
text: as text if it could not be prepared, or if the server did not begin to execute it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reqpool_contract.errors import BadResponse, Code, ConnectionLost, PoolError, UsageError
from reqpool_contract.payloads.mysql import BINARY_ROWS, ERR, HEADER_BYTES, MAX_PACKET_BYTES, OK, QUERY, TYPED

from . import READY, Event, StreamProtocol
from .mysql_answer import AnswerScanner, farewell
from .mysql_execute import execute
from .mysql_literals import TypedStatement, read_typed, render
from .mysql_login import Account, Dialogue, ServerSession, hold, log_in, not_mysql, release
from .mysql_packets import (
    DEPRECATE_EOF,
    NO_BACKSLASH_ESCAPES,
    SESSION_TRACK,
    packet,
)
from .mysql_prepared import (
    MOST_SQL_BYTES,
    Preparation,
    PreparedStatements,
    closing,
    never_began,
    prepare,
)
from .mysql_session_state import (
    TRANSITIONS,
    USUAL_VERBS,
    AnswerEnd,
    MysqlEvent,
    MysqlState,
    Residue,
    expected_residue,
    judge,
)
from .tls_engine import TlsEngine

MAX_DIALOGUE_BYTES = 1 << 16
"""Largest packet of a dialogue: a greeting or a public key has some hundred bytes."""
_OK = int(Code.OK)
_WITHOUT_ROWS = (OK, ERR)

_MAY_GREET = (b"", b"\x0a", b"\xff")
"""First bytes of what a server begins with: a greeting of protocol 10, or an ERR packet."""
_RELEASES = {MysqlState.PINNED: MysqlEvent.RELEASE, MysqlState.SHARED: MysqlEvent.CLEAN}


class MysqlConnection(StreamProtocol):
    """One connection, from the log-in to the last statement."""

    def __init__(
        self, account: Account, max_bytes: int, tls: dict[str, Any] | None, host: str, *, local: bool
    ) -> None:
        """Make the protocol of one connection.

        Args:
            account: the account to log in with.
            max_bytes: largest answer, packet headers included.
            tls: TLS settings; None: no TLS.
            host: the name that the server's certificate must be for.
            local: whether it is a Unix socket.
        """
        self._account = account
        self._max_bytes = max_bytes
        self._tls_settings = tls
        self._host = host
        self._private = local or tls is not None
        self._tls: TlsEngine | None = None
        self._dialogue: Dialogue | Preparation | None = None
        self._received = b""  # the beginning of a dialogue's packet
        self._due = 0  # number of the dialogue's next packet
        self._session: ServerSession
        self._scanner: AnswerScanner
        self._statement = b""  # what is not yet answered, as the payload of COM_QUERY
        self._executing: TypedStatement | None = None  # the same, if its EXECUTE was sent or its PREPARE
        self._prepared = PreparedStatements()
        self._status = 0
        self._state = MysqlState.GREETING
        self._residue = Residue.NOTHING

    # --- statements -----------------------------------------------------------------------------

    def send(self, request: Any) -> bytes:
        payload: bytes = request.payload
        if not payload.startswith(QUERY):
            if not payload.startswith(TYPED):
                raise UsageError("a payload of kind mysql must begin with byte 0 or 3")
            typed = read_typed(payload)
            if (
                typed.reads_binary
                and self._prepared.enabled
                and self._state is MysqlState.SHARED
                and len(typed.sql) <= MOST_SQL_BYTES
            ):
                data = self._execute(typed) or self._prepare(typed)
                if data:
                    return data
            payload = QUERY + render(typed, self._backslashes_escape)
        return self._sealed(self._query(payload))

    def _query(self, payload: bytes) -> bytes:
        """Expect the answer to a statement that is sent as text; return its packets."""
        if payload[1:7] not in USUAL_VERBS or self._state is MysqlState.PINNED:
            self._residue = expected_residue(self._state, self._residue, payload)
        self._statement = payload
        if len(payload) < MAX_PACKET_BYTES:
            self._scanner.expect()
            return len(payload).to_bytes(HEADER_BYTES, "little") + payload
        self._scanner.expect(len(payload) // MAX_PACKET_BYTES + 1)
        return packet(payload)

    def _sealed(self, data: bytes) -> bytes:
        return data if self._tls is None else self._tls.encrypt(data)

    def feed(self, data: bytes) -> Sequence[Event]:
        try:
            return self._take(data) if self._tls is None else self._take_sealed(self._tls, data)
        except PoolError as error:
            is_reset = self._state is MysqlState.RESETTING
            self._move(MysqlEvent.FAILED)
            if is_reset:  # not the error of a request: the next one, which may wait for this, goes elsewhere
                raise ConnectionLost(f"the connection could not be reset: {error.text}") from error
            raise

    def _take(self, data: bytes) -> Sequence[Event]:
        if self._dialogue is not None:
            return self._converse(data)
        if not self._statement:
            if data[HEADER_BYTES : HEADER_BYTES + 1] == b"\xff":
                raise ConnectionLost(f"the server ended the connection: {farewell(data)}")
            raise BadResponse("data received before any request")
        scanner = self._scanner
        answer = scanner.take(data)
        if answer is None:
            return ()
        if self._executing is not None:
            typed, self._executing = self._executing, None
            if scanner.error is not None and never_began(scanner.error, answer) and not scanner.surplus:
                return (self._in_text(typed, self._prepared.refuse(typed.sql)),)
            answer = self._marked(answer)
        if (
            scanner.status != self._status
            or scanner.error
            or scanner.tracked
            or scanner.surplus
            or self._residue is Residue.UNCERTAIN
        ):
            self._judge()
        self._statement = b""
        return ((_OK, answer),)

    def _take_sealed(self, tls: TlsEngine, data: bytes) -> Sequence[Event]:
        standing = tls.established
        data, reply = tls.feed(data)
        events: list[Event] = [reply] if reply else []
        if tls.established and not standing:
            events += self._go_on(None)
        if data:
            events += self._take(data)
        if tls.closed:
            self._move(MysqlEvent.FAILED)
            if self._statement or self._dialogue is not None:
                raise ConnectionLost("the server closed the connection")
        return events

    def eof(self) -> Sequence[Event]:
        if self._state is MysqlState.GREETING and self._received:
            raise BadResponse(not_mysql(self._received))
        if self._state is MysqlState.PREPARING:  # the statement itself was not sent
            raise ConnectionLost("the peer closed the connection", sent=False)
        return ()

    @property
    def awaited(self) -> str:
        if self._state is not MysqlState.GREETING:
            return ""
        return "no greeting received, and a MySQL server speaks first"

    @property
    def reusable(self) -> bool:
        return self._state is not MysqlState.SPENT

    @property
    def unclean(self) -> bool:
        return self._residue is Residue.UNREPORTED

    @property
    def begun(self) -> bool:
        return self._scanner.begun

    @property
    def _backslashes_escape(self) -> bool | None:
        """See :func:`.mysql_literals.render`."""
        if self._residue is not Residue.NOTHING and Residue.ESCAPES in self._residue:
            return None
        return not self._status & NO_BACKSLASH_ESCAPES

    def _judge(self) -> None:
        """Look at what the end of an answer reports about the session."""
        scanner = self._scanner
        end = AnswerEnd(self._status, scanner.status, scanner.tracked, scanner.error, scanner.surplus)
        event, self._residue = judge(self._state, self._residue, self._statement, end)
        self._status = scanner.status
        if event is not None:
            self._move(event)

    def _move(self, event: MysqlEvent) -> None:
        target = TRANSITIONS.get((self._state, event))
        if target is None:
            raise RuntimeError(f"{event.name} while {self._state.name}")
        self._state = target

    # --- prepared statements --------------------------------------------------------------------

    def _execute(self, typed: TypedStatement) -> bytes:
        """Return what executes a statement; nothing if it is not prepared or cannot have these parameters."""
        statement = self._prepared.find(typed.sql)
        if statement is None or not statement.takes(typed.parameters):
            return b""
        command = execute(statement.number, typed.parameters)
        if not command or len(command) >= MAX_PACKET_BYTES:
            return b""
        self._executing = typed
        self._statement = statement.query
        self._scanner.expect()
        return self._sealed(packet(command))

    def _prepare(self, typed: TypedStatement) -> bytes:
        """Return what prepares a statement; nothing unless that is due."""
        form = self._prepared.wanted(typed.sql)
        if form is None:
            return b""
        self._statement = QUERY + render(typed, self._backslashes_escape)  # raises if it is malformed
        self._executing = typed
        self._move(MysqlEvent.PREPARE)
        steps = self._begin(prepare(self._prepared, form))
        return b"".join([step for step in steps if isinstance(step, bytes)])

    def _run(self, closes: Sequence[bytes]) -> bytes:
        """Return what runs the statement after its preparation, with what closes statements."""
        self._move(MysqlEvent.DONE)
        typed, self._executing = self._executing, None
        if typed is None:
            raise RuntimeError("nothing was to be prepared")
        return self._execute(typed) or self._in_text(typed, closes)

    def _in_text(self, typed: TypedStatement, closes: Sequence[bytes]) -> bytes:
        payload = QUERY + render(typed, self._backslashes_escape)
        return self._sealed(closing(closes) + self._query(payload))

    def _marked(self, answer: bytes) -> bytes:
        """Mark an answer with rows as one of the binary protocol."""
        if answer[HEADER_BYTES] in _WITHOUT_ROWS:
            return answer
        if len(answer) + len(BINARY_ROWS) > self._max_bytes:
            raise BadResponse(f"the answer is longer than {self._max_bytes} bytes")
        return BINARY_ROWS + answer

    # --- dialogues ------------------------------------------------------------------------------

    def connected(self) -> Sequence[Event]:
        return self._begin(log_in(self._account, self._tls_settings is not None, self._private))

    def hold(self) -> Sequence[Event]:
        self._move(MysqlEvent.HOLD)
        self._residue = Residue.NOTHING
        return self._begin(hold(self._session))

    def release(self) -> Sequence[Event] | None:
        event = _RELEASES.get(self._state)
        goes_back = Residue.SCHEMA in self._residue
        if (
            event is None
            or self._statement
            or Residue.LASTING in self._residue
            or not self._session.tracks
            or (goes_back and not self._account.database)  # no command leaves a session without a database
        ):
            return None
        self._move(event)
        return self._begin(release(self._session, self._account.database, elsewhere=goes_back))

    def _begin(self, dialogue: Dialogue | Preparation) -> Sequence[Event]:
        self._dialogue = dialogue
        self._received = b""
        self._due = 0
        return self._go_on(None)

    def _converse(self, data: bytes) -> list[Event]:
        """Give the dialogue each complete packet."""
        events: list[Event] = []
        self._received += data
        while len(self._received) >= HEADER_BYTES and self._dialogue is not None:
            length, number = int.from_bytes(self._received[:3], "little"), self._received[3]
            first = self._received[HEADER_BYTES : HEADER_BYTES + 1]
            fits = 0 < length <= MAX_DIALOGUE_BYTES
            is_first = self._state is MysqlState.GREETING
            if is_first and (not fits or first not in _MAY_GREET):
                raise BadResponse(not_mysql(self._received))
            if not fits:
                raise BadResponse(f"a packet of {length} bytes during the log-in")
            # A server that gives up says why, in a packet with any number.
            if number != self._due and first not in (b"", b"\xff"):
                raise BadResponse(f"expected packet {self._due}, got {number}")
            end = HEADER_BYTES + length
            if len(self._received) < end:
                return events
            payload, self._received = self._received[HEADER_BYTES:end], self._received[end:]
            if is_first:
                self._move(MysqlEvent.GREETED)
            self._due = number + 1 & 0xFF
            events += self._go_on((number, payload))
        if self._received and self._dialogue is None:
            raise BadResponse("data received before any request")
        return events

    def _go_on(self, came: tuple[int, bytes] | None) -> list[Event]:
        """Give the dialogue a packet; None starts it, or means that TLS is established."""
        if self._dialogue is None:
            raise BadResponse("an unexpected TLS handshake")
        try:
            step = self._dialogue.send(came)
        except StopIteration as end:
            self._dialogue = None
            if self._state is MysqlState.PREPARING:
                return [self._run(end.value)]
            self._settle(end.value)
            return [READY]
        if isinstance(step, bytes):
            if not step:
                return []
            self._due = step[HEADER_BYTES - 1] + 1 & 0xFF
            return [step if self._tls is None else self._tls.encrypt(step)]
        if self._received:
            # A man in the middle could have sent it, and it would be taken for the server's own.
            raise BadResponse("unencrypted data received where TLS must begin")
        self._tls = TlsEngine(self._tls_settings or {}, self._host)
        self._due = step.request[HEADER_BYTES - 1] + 2 & 0xFF  # the response takes the number between
        return [step.request, self._tls.start()]

    def _settle(self, session: ServerSession) -> None:
        """Take statements: a dialogue has ended well."""
        deprecate_eof = bool(session.capabilities & DEPRECATE_EOF)
        tracks = bool(session.capabilities & SESSION_TRACK)
        if self._state is MysqlState.LOGGING_IN:
            self._prepared.enabled = session.is_mariadb and session.tracks and deprecate_eof
        elif self._state is MysqlState.RESETTING:
            self._prepared.forget()
        self._move(MysqlEvent.DONE)
        self._session = session
        self._residue = Residue.NOTHING
        self._scanner = AnswerScanner(self._max_bytes, deprecate_eof, tracks, session.status)
        self._status = session.status
