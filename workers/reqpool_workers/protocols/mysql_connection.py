"""One connection to MySQL or MariaDB: statements in the text protocol, one at a time.

Payload: byte 3 (COM_QUERY itself) and the SQL in UTF-8, sent as it is; or byte 0, SQL and parameters, see
:mod:`.mysql_literals`. Answer: the server's packets as they came, headers included; of an answer that ends in
an error the ERR packet alone.

    log in --> shared <--release-- held
                 |----hold--------->|

A shared connection is everybody's. The client half refuses what would leave something behind on it; what
comes about nevertheless (in a trigger, say) the server's status flags and session tracking show, and the
connection is closed after that answer. Where they may not show it, after an error, which tells of no state,
or a CALL, which may lock what no server tells of, it is reset. Held for one session (a pin), it may be
changed at will, and is reset afterwards, or closed if something might outlast the reset.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from reqpool_contract.errors import BadResponse, Code, ConnectionLost, PoolError, UsageError

from . import READY, Event, StreamProtocol
from .mysql_answer import AnswerScanner, farewell
from .mysql_literals import render
from .mysql_login import Account, Dialogue, Session, hold, log_in, not_mysql, release
from .mysql_packets import (
    AUTOCOMMIT,
    COM_QUERY,
    DB_DROPPED,
    DEPRECATE_EOF,
    ENDS_CONNECTION,
    HEADER_BYTES,
    IN_TRANS,
    MAX_PACKET_BYTES,
    NO_BACKSLASH_ESCAPES,
    SESSION_TRACK,
    TRACK_SCHEMA,
    TRACK_STATE,
    TRACK_VARIABLES,
    Tracked,
    changes,
    packet,
    tracked_variables,
)
from .tls import TlsEngine

MAX_DIALOGUE_BYTES = 1 << 16
"""Largest packet of a log-in: a greeting or a public key is some hundred bytes."""
UTF8 = frozenset((b"utf8mb4", b"utf8mb3", b"utf8"))
"""Character sets that a session may be set to; the others would let a quote be a part of a character."""
_NOT_SHARED = IN_TRANS | DB_DROPPED
_OK = int(Code.OK)

_SERVES_NOBODY = ENDS_CONNECTION | {1317}
"""Errors after which a connection serves nobody. KILL QUERY (1317) leaves it open, but may come late and hit
the next statement."""

# There is one way to match each byte: a comment that could also end where the next one does would be tried
# both ways, 2**n of them.
_COMMENTS = rb"(?is)\x03?\s*+(?:/\*(?!M?!)[^*]*+(?:\*(?!/)[^*]*+)*\*/\s*+)*"
_PLAIN = re.compile(
    _COMMENTS
    + rb"(?:select|insert|update|delete|replace|with|values|table|show|desc|describe|explain|create|drop"
    rb"|alter|truncate|rename|grant|revoke|analyze|check|optimize|repair|load|kill|do|\()\b"
)
"""Statements that do what their text says, but for functions and triggers. One of another sort, a CALL say,
may have begun a transaction before it failed, and an ERR packet tells of no state."""
_MOST = frozenset(
    word for verb in (b"select", b"insert", b"update", b"delete") for word in (verb, verb.upper())
)
"""How nearly all of these begin: looked up in no time."""
_UNDONE = re.compile(
    _COMMENTS
    + rb"(?:set|use|create|drop|prepare|deallocate|lock|unlock|start|begin(?!\s+not)|commit|rollback"
    rb"|savepoint|release|handler|flush)\b"
)
"""Statements whose effect on a session COM_RESET_CONNECTION undoes, but for those below."""
_NOT_UNDONE = (b"role", b"authorization")
"""In statements that may have an effect which the reset leaves: SET ROLE (MariaDB 10.11), and SET SESSION
AUTHORIZATION (12.0), which nobody has tried."""
_MAY_GREET = (b"", b"\x0a", b"\xff")
"""First bytes of what a server begins with: a greeting of protocol 10, or an ERR packet."""
_TRACKING = b"session_track"
"""A statement with this in it may keep the server from telling what the next ones change."""


class MysqlConnection(StreamProtocol):
    """From the log-in to the last statement."""

    def __init__(
        self, account: Account, max_bytes: int, tls: dict[str, Any] | None, host: str, *, local: bool
    ) -> None:
        """Make the protocol of one connection.

        Args:
            account: who logs in.
            max_bytes: largest answer, with its packets' headers.
            tls: settings of TLS; None speaks plain.
            host: the name in the server's certificate.
            local: is it a Unix socket?
        """
        self._account = account
        self._max_bytes = max_bytes
        self._tls_settings = tls
        self._host = host
        self._private = local or tls is not None
        self._tls: TlsEngine | None = None
        self._dialogue: Dialogue | None = None
        self._received = b""  # the begin of a dialogue's packet
        self._due = 0  # number of the dialogue's next packet
        self._greeted = False
        self._session: Session
        self._scanner: AnswerScanner
        self._statement = b""  # what is not yet answered
        self._status = 0
        self._backslashes: bool | None = True  # do they escape? None: not known
        self._held = False
        self._over = False  # nobody must use it again
        self._unclean = False  # something may be left on it that the server does not tell of
        self._doubtful = False  # the statement may leave something
        self._lasting = False  # something may outlast a reset
        self._elsewhere = False  # another database may be the current one
        self._resetting = False

    # --- statements -----------------------------------------------------------------------------

    def send(self, request: Any) -> bytes:
        payload: bytes = request.payload
        if not payload or payload[0] != COM_QUERY:
            if payload[:1] != b"\x00":
                raise UsageError("a payload of kind mysql must begin with byte 0 or 3")
            payload = b"\x03" + render(payload, self._backslashes)
        if self._held:
            if _TRACKING in payload.lower():
                self._lasting = True
        elif payload[1:7] not in _MOST:
            self._doubtful = not _PLAIN.match(payload)
        self._statement = payload
        if len(payload) < MAX_PACKET_BYTES:
            self._scanner.expect()
            data = len(payload).to_bytes(HEADER_BYTES, "little") + payload
        else:
            self._scanner.expect(len(payload) // MAX_PACKET_BYTES + 1)
            data = packet(payload)
        return data if self._tls is None else self._tls.encrypt(data)

    def feed(self, data: bytes) -> Sequence[Event]:
        return self._take(data) if self._tls is None else self._take_sealed(self._tls, data)

    def _take(self, data: bytes) -> Sequence[Event]:
        if self._resetting:
            try:
                return self._converse(data)
            except PoolError as error:  # of no request: the next one, which may wait for this, goes elsewhere
                raise ConnectionLost(f"the connection could not be reset: {error.text}") from error
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
        if (
            scanner.status != self._status
            or scanner.error
            or scanner.tracked
            or scanner.surplus
            or self._doubtful
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
            self._over = True
            if self._statement or self._dialogue is not None:
                raise ConnectionLost("the server closed the connection")
        return events

    def eof(self) -> Sequence[Event]:
        if not self._greeted and self._received:
            raise BadResponse(not_mysql(self._received))
        return ()

    @property
    def awaited(self) -> str:
        return "" if self._greeted else "no greeting received, and a MySQL server speaks first"

    @property
    def reusable(self) -> bool:
        return not self._over

    @property
    def unclean(self) -> bool:
        return self._unclean

    @property
    def begun(self) -> bool:
        return self._scanner.begun

    def _judge(self) -> None:
        """Look at what an answer tells of the session."""
        scanner = self._scanner
        status = scanner.status
        if (status ^ self._status) & NO_BACKSLASH_ESCAPES:
            self._backslashes = None  # see mysql_literals
        self._status = status
        error = scanner.error
        changed = changes(scanner.tracked)
        if scanner.surplus or (error is not None and error.number in _SERVES_NOBODY):
            self._over = True
        elif not self._held:
            self._over = (
                bool(changed)
                or self._backslashes is None
                or not status & AUTOCOMMIT
                or bool(status & _NOT_SHARED)
            )
            self._unclean = self._doubtful or error is not None
        else:
            if TRACK_VARIABLES in changed and not _still_utf8(scanner.tracked):
                self._over = True
            if TRACK_SCHEMA in changed or status & DB_DROPPED:
                self._elsewhere = True
            if (
                TRACK_STATE in changed or (error is not None and not _PLAIN.match(self._statement))
            ) and not _is_undone(self._statement):
                self._lasting = True

    # --- dialogues ------------------------------------------------------------------------------

    def connected(self) -> Sequence[Event]:
        return self._begin(log_in(self._account, self._tls_settings is not None, self._private))

    def hold(self) -> Sequence[Event]:
        self._held = True
        self._lasting = self._elsewhere = False
        return self._begin(hold(self._session))

    def release(self) -> Sequence[Event] | None:
        if self._over or self._lasting or self._statement or self._dialogue or not self._session.tracks:
            return None
        if self._elsewhere and not self._account.database:
            return None  # nothing makes a session one without a database again
        self._held = False
        self._resetting = True
        return self._begin(release(self._session, self._account.database, elsewhere=self._elsewhere))

    def _begin(self, dialogue: Dialogue) -> Sequence[Event]:
        self._dialogue = dialogue
        self._received = b""
        self._due = 0
        return self._go_on(None)

    def _converse(self, data: bytes) -> list[Event]:
        """Give the dialogue each packet that is complete."""
        events: list[Event] = []
        self._received += data
        while len(self._received) >= HEADER_BYTES and self._dialogue is not None:
            length, number = int.from_bytes(self._received[:3], "little"), self._received[3]
            first = self._received[HEADER_BYTES : HEADER_BYTES + 1]
            fits = 0 < length <= MAX_DIALOGUE_BYTES
            if not self._greeted and (not fits or first not in _MAY_GREET):
                raise BadResponse(not_mysql(self._received))
            if not fits:
                raise BadResponse(f"a packet of {length} bytes during the log-in")
            # A server that gives up says why, with whatever number it has come to.
            if number != self._due and first not in (b"", b"\xff"):
                raise BadResponse(f"expected packet {self._due}, got {number}")
            end = HEADER_BYTES + length
            if len(self._received) < end:
                return events
            payload, self._received = self._received[HEADER_BYTES:end], self._received[end:]
            self._greeted = True
            self._due = number + 1 & 0xFF
            events += self._go_on((number, payload))
        if self._received and self._dialogue is None:
            raise BadResponse("data received before any request")
        return events

    def _go_on(self, came: tuple[int, bytes] | None) -> list[Event]:
        """Let the dialogue have a packet; None starts it, or tells it that TLS stands."""
        if self._dialogue is None:
            raise BadResponse("an unexpected TLS handshake")
        try:
            step = self._dialogue.send(came)
        except StopIteration as end:
            self._dialogue = None
            self._settle(end.value)
            return [READY]
        if isinstance(step, bytes):
            if not step:
                return []
            self._due = step[HEADER_BYTES - 1] + 1 & 0xFF
            return [step if self._tls is None else self._tls.encrypt(step)]
        if self._received:
            # Whoever sits between could have put it there, and we would take it for the server's own.
            raise BadResponse("unencrypted data received where TLS must begin")
        self._tls = TlsEngine(self._tls_settings or {}, self._host)
        self._due = step.request[HEADER_BYTES - 1] + 2 & 0xFF  # the response takes the number between
        return [step.request, self._tls.start()]

    def _settle(self, session: Session) -> None:
        self._session = session
        self._resetting = self._unclean = self._doubtful = False
        deprecate_eof = bool(session.capabilities & DEPRECATE_EOF)
        tracks = bool(session.capabilities & SESSION_TRACK)
        self._scanner = AnswerScanner(self._max_bytes, deprecate_eof, tracks, session.status)
        self._status = session.status
        self._backslashes = not session.status & NO_BACKSLASH_ESCAPES


def _is_undone(statement: bytes) -> bool:
    """Does COM_RESET_CONNECTION undo what it did to the session?"""
    if not _UNDONE.match(statement):
        return False
    text = statement.lower()
    return not any(word in text for word in _NOT_UNDONE)


def _still_utf8(tracked: Tracked) -> bool:
    return all(
        value in UTF8
        for about, piece in tracked
        if about == TRACK_VARIABLES
        for name, value in tracked_variables(piece).items()
        if name.startswith(b"character_set_")
    )
