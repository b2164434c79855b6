"""Finds the end of an answer: its packets are counted, not read.

    FIRST --OK--> the end, or FIRST again if more results follow
    FIRST --number of columns--> COLUMNS --each one--> [EOF] ROWS --each one--> ROWS
    ROWS --OK or EOF--> as after OK          anything --ERR--> the end

An ERR packet with an unexpected number is the server's last word: instead of an answer it is the answer,
unless it announces the end of the connection and was sent before the statement was read.

Answers may be megabytes, so bytes are kept as they came and joined once; only a packet that has to be read
whole (OK, EOF, ERR) waits in a buffer, and these are small. The packets of the text and of the binary
protocol are counted alike.
"""

from __future__ import annotations

import struct

from reqpool_contract.errors import BadResponse, ConnectionLost
from reqpool_contract.payloads.mysql import EOF, ERR, HEADER_BYTES, MAX_PACKET_BYTES, OK

from .mysql_packets import (
    ENDS_CONNECTION,
    LOCAL_INFILE,
    MORE_RESULTS,
    SESSION_STATE_CHANGED,
    ServerError,
    read_eof,
    read_error,
    read_ok,
)

MAX_CONTROL_BYTES = 1 << 16
"""Largest OK, EOF or ERR packet that is accepted."""
_NEXT_NUMBER = 1 << 24
_FIRST, _COLUMNS, _AFTER_COLUMNS, _ROWS = range(4)

_SHORTEST_COLUMN_BYTES = 23
"""Of a column's definition: a header, six empty strings, a length and twelve bytes."""
_SHORTEST_BYTES = 11
"""Of an OK packet, which ends an answer, if its numbers are small and nothing is tracked."""
_SMALL_BYTES = 16 << 10
_ONE_BYTE = 0xFA
"""Largest number whose length-encoded form is itself."""
_OK_OR_EOF = (OK, EOF)
_UNORDINARY = MORE_RESULTS | SESSION_STATE_CHANGED

_begun: dict[bytes, bytes] = {}
"""How ordinary result sets began, up to their rows, by their first bytes: which are not a row's."""
_KEY_BYTES = 64
_MOST_KEPT = 512
_LARGEST_KEPT_BYTES = 2 << 10

_word = struct.Struct("<I").unpack_from


class AnswerScanner:
    """Finds the end of one answer after the other.

    Attributes:
        status: the server's status flags as of the last answer; an ERR packet has none.
        tracked: changes to the session that the end of the last answer reports.
        error: the ERR packet that ended the last answer, or None.
        begun: whether a byte of the present answer has come.
        surplus: whether bytes came that belong to no request, after the last answer or instead of it: the
            connection must not be used again.
    """

    def __init__(self, max_bytes: int, deprecate_eof: bool, tracks: bool, status: int) -> None:
        """Scan answers.

        Args:
            max_bytes: largest answer, headers included.
            deprecate_eof: whether CLIENT_DEPRECATE_EOF was agreed on at log-in.
            tracks: whether CLIENT_SESSION_TRACK was agreed on.
            status: the status flags at the end of the log-in.
        """
        self._max_bytes = max_bytes
        self._deprecate_eof = deprecate_eof
        self._tracks = tracks
        self.status = status
        self._begun = b"\xff"  # how the last ordinary result set began; no answer begins like this
        self._start(1)

    def expect(self, number: int = 1) -> None:
        """Expect an answer: a command was sent.

        Args:
            number: of the answer's first packet, which is the count of the command's packets.
        """
        if not self._fresh or number != 1:
            self._start(number)

    def _start(self, number: int) -> None:
        self._fresh = number == 1
        self.error: ServerError | None = None
        self.tracked: list[tuple[int, bytes]] = []
        self.begun = False
        self.surplus = False
        self._phase = _FIRST
        # The expected sequence number, at its position in a header that is read as one word.
        self._number = (number & 0xFF) * _NEXT_NUMBER
        self._columns = 0  # definitions still to come
        self._continues = False  # the last packet was one of 0xFFFFFF bytes
        self._skip = 0  # bytes of the present packet still to come
        self._head = b""  # the begin of a packet that has to be seen whole
        self._pieces: list[bytes] = []
        self._size = 0

    def take(self, data: bytes) -> bytes | None:
        """Take bytes from the server.

        Returns:
            The answer's packets as they came, if it is complete; of an answer that ends in an error the ERR
            packet alone.

        Raises:
            BadResponse: if this is not an answer, or a longer one than allowed.
            ConnectionLost: if the server ended the connection instead.
        """
        if self._fresh:
            if self._is_ordinary(data):
                return data
            self._fresh = False
        if self._head:
            data = self._head + data
            self._head = b""
        self.begun = True
        end = len(data)
        at = self._skip
        number = self._number
        size = self._size
        most = self._max_bytes - size
        while at + HEADER_BYTES <= end:
            if self._phase == _ROWS and not self._continues:
                # The tight loop: a row of ordinary length is passed over.
                while at + HEADER_BYTES < end:
                    length = _word(data, at)[0] - number
                    if not 0 < length < MAX_PACKET_BYTES or data[at + HEADER_BYTES] >= EOF:
                        break
                    at += HEADER_BYTES + length
                    number = number + _NEXT_NUMBER & 0xFF000000
                else:
                    break
            length = _word(data, at)[0] - number
            if not 0 <= length <= MAX_PACKET_BYTES:
                out_of_turn = self._out_of_turn(data, at, number >> 24)
                if out_of_turn is None:
                    break
                return self._complete(data, at, out_of_turn)
            after = at + HEADER_BYTES + length
            if after > most:
                raise BadResponse(f"the answer is longer than {self._max_bytes} bytes")
            if not self._continues:
                if length == 0:
                    raise BadResponse("an empty packet instead of an answer or a row")
                if at + HEADER_BYTES == end:
                    break  # its first byte shows what it is
                if self._read_whole(data[at + HEADER_BYTES], length):
                    if length > MAX_CONTROL_BYTES:
                        raise BadResponse(f"a packet of {length} bytes where an answer should begin or end")
                    if after > end:
                        break
                    if self._control(data[at + HEADER_BYTES : after]):
                        return self._complete(data, at, after)
                elif self._phase == _COLUMNS:
                    self._columns -= 1
                    if not self._columns:
                        self._phase = _ROWS if self._deprecate_eof else _AFTER_COLUMNS
            self._continues = length == MAX_PACKET_BYTES
            number = number + _NEXT_NUMBER & 0xFF000000
            at = after
        self._number = number
        if at >= end:
            self._skip = at - end
        else:
            self._skip = 0
            self._head = data[at:]
            data = data[:at]
        if at > most:
            raise BadResponse(f"the answer is longer than {self._max_bytes} bytes")
        if data:
            self._size = size + len(data)
            self._pieces.append(data)
        return None

    def _is_ordinary(self, data: bytes) -> bool:
        """Return whether this is a whole answer of the most frequent sorts: a small result set, or an OK with
        small numbers.

        Nearly all answers are, and this costs a third of a close look. False does not mean that it is wrong.
        """
        end = len(data)
        if not _SHORTEST_BYTES <= end <= _SMALL_BYTES or end > self._max_bytes:
            return False
        last = end - _SHORTEST_BYTES  # where the OK packet begins
        if not self._deprecate_eof or data[last] != 7 or data[last + 4] not in _OK_OR_EOF:
            return False
        if last == 0:
            if not data.startswith(b"\x07\x00\x00\x01\x00") or data[5] > _ONE_BYTE or data[6] > _ONE_BYTE:
                return False
        else:
            if not data.startswith(self._begun):
                key = data[:_KEY_BYTES]
                begun = _begun.get(key)
                if begun is None or not data.startswith(begun):
                    end_of_columns = _walk_columns(data, last)
                    if not end_of_columns:
                        return False
                    begun = data[:end_of_columns]
                    if _KEY_BYTES <= end_of_columns <= _LARGEST_KEPT_BYTES:
                        if len(_begun) >= _MOST_KEPT:
                            _begun.clear()
                        _begun[key] = begun
                self._begun = begun
            at = len(self._begun)
            number = (self._begun[4] + 2) * _NEXT_NUMBER & 0xFF000000
            while at < last:
                length = _word(data, at)[0] - number
                if not 0 < length < MAX_PACKET_BYTES or data[at + HEADER_BYTES] >= EOF:
                    return False
                at += HEADER_BYTES + length
                number = number + _NEXT_NUMBER & 0xFF000000
            if (
                at != last
                or _word(data, at)[0] - number != 7
                or data[at + 4] != EOF
                or data[at + 5]
                or data[at + 6]
            ):
                return False
        status = data[last + 7] | data[last + 8] << 8
        if status & _UNORDINARY:
            return False
        self.status = status
        return True

    def _read_whole(self, first: int, length: int) -> bool:
        """Return whether this packet decides what comes next."""
        if self._phase in (_FIRST, _AFTER_COLUMNS) or first == ERR:
            return True
        if self._phase == _COLUMNS or first != EOF:
            return False
        # A row's first value may be one of 16 MB or more, whose length is written with the same first byte.
        return length < (MAX_PACKET_BYTES if self._deprecate_eof else 9)

    def _control(self, payload: bytes) -> bool:
        """Act on a packet that was read whole; True if it is the answer's last."""
        first = payload[0]
        if first == ERR:
            self.error = read_error(payload)
            return True
        if self._phase == _FIRST:
            if first == LOCAL_INFILE:
                raise BadResponse("the server requests a local file (LOCAL INFILE), which was not offered")
            if first != OK:
                self._columns = _column_count(payload)
                if self._columns * _SHORTEST_COLUMN_BYTES > self._max_bytes:
                    raise BadResponse(f"{self._columns} columns are longer than {self._max_bytes} bytes")
                self._phase = _COLUMNS
                return False
            self.status, tracked = read_ok(payload, tracks=self._tracks)
        elif self._phase == _AFTER_COLUMNS:
            if first != EOF:
                raise BadResponse("no EOF packet after the columns")
            self._phase = _ROWS
            return False
        else:
            self.status, tracked = (
                read_ok(payload, tracks=self._tracks) if self._deprecate_eof else read_eof(payload)
            )
        self.tracked.extend(tracked)  # a tuple that grows would be copied for each of many results
        self._phase = _FIRST
        return not self.status & MORE_RESULTS

    def _complete(self, data: bytes, at: int, after: int) -> bytes:
        self.begun = False
        if after < len(data):
            self.surplus = True
            data = data[:after]
        if self._size + after > self._max_bytes:
            raise BadResponse(f"the answer is longer than {self._max_bytes} bytes")
        if self.error is not None:
            return data[at:]
        if not self._pieces:
            return data
        pieces, self._pieces = self._pieces, []
        pieces.append(data)
        return b"".join(pieces)

    def _out_of_turn(self, data: bytes, at: int, due: int) -> int | None:
        """Look at a packet with an unexpected number: servers that give up send an ERR packet like this.

        One of number 0, instead of the answer, was sent before the statement was read if it says that the
        connection is over: the server was shut down, or the connection was idle for too long.

        Returns:
            Where it ends if it is an ERR packet instead of the answer, which it then is; None if more of it
            has to come first.

        Raises:
            ConnectionLost: if the connection is over and the statement was not read.
            BadResponse: if it is something else.
        """
        came = data[at + 3]
        length = int.from_bytes(data[at : at + 3], "little")
        first = data[at + HEADER_BYTES : at + HEADER_BYTES + 1]
        after = at + HEADER_BYTES + length
        text = f"expected packet {due}, got {came}"
        if self._continues or first not in (b"", b"\xff") or not 0 < length <= MAX_CONTROL_BYTES:
            raise BadResponse(text)
        if len(data) < after:
            return None
        error = read_error(data[at + HEADER_BYTES : after])
        if at or self._size:
            raise BadResponse(f"{text}: {error}")
        if came == 0 and (error.number in ENDS_CONNECTION or error.sqlstate.startswith("08")):
            self.begun = False
            raise ConnectionLost(f"the server ended the connection: {error}", sent=False)
        self.error = error
        self.surplus = True
        return after


def _walk_columns(data: bytes, last: int) -> int:
    """Return where the columns of an ordinary result set end; 0 if it is not one, or they end after
    ``last``."""
    columns = data[4]
    if not data.startswith(b"\x01\x00\x00\x01") or not 0 < columns <= _ONE_BYTE:
        return 0
    at, number = 5, 2 * _NEXT_NUMBER
    for _ in range(columns):
        length = _word(data, at)[0] - number if at < last else 0
        if not 0 < length < MAX_PACKET_BYTES or data[at + HEADER_BYTES] == ERR:
            return 0
        at += HEADER_BYTES + length
        number = number + _NEXT_NUMBER & 0xFF000000
    return at if at <= last else 0


def farewell(data: bytes) -> str:
    """Return the text with which a server ends an idle connection."""
    payload = data[HEADER_BYTES : HEADER_BYTES + (_word(data, 0)[0] & MAX_PACKET_BYTES)]
    return str(read_error(payload)) if len(payload) > 2 else "it gave no reason"


def _column_count(payload: bytes) -> int:
    """Read the number of columns: of a table up to 4,096, of a result more (sqlyog-community#2181)."""
    count, size = payload[0], _COUNT_BYTES.get(payload[0], 0)
    if size:
        count = int.from_bytes(payload[1:], "little")
    if len(payload) != 1 + size or not count or (not size and count >= LOCAL_INFILE):
        raise BadResponse("an answer that begins with neither OK, ERR nor a number of columns")
    return count


_COUNT_BYTES = {0xFC: 2, 0xFD: 3, 0xFE: 8}
