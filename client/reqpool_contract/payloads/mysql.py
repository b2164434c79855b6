"""Payloads and answers of kind ``mysql``.

A payload is one of

* byte 3, which is COM_QUERY, and the SQL in UTF-8; sent as it is
* byte 0, then msgpack ``[sql, [parameter, ...]]``, with a ``%s`` in ``sql`` for each parameter and ``%%`` for
  each percent sign. ``sql`` is a str if the client reads rows of the binary protocol, too. It is a bin if the
  client reads only rows of the text protocol, as earlier versions do.

The second form may have a third element: whether backslashes must escape (true) or must not (false) on the
connection, as a placeholder would be inside quotes otherwise. A parameter is nil, bool, int, float, str, an
array of these for ``IN %s``, or an extension:

    1  decimal    its digits                4  date, datetime, time   as in a literal, ASCII
    2  integer    of more than 64 bits      5  bytes                  themselves
                                            6  bytes or text that follow an introducer in the SQL: _binary %s

An answer is the server's packets as they came, headers included; of an answer that ends in an error, only the
ERR packet. :data:`BINARY_ROWS` comes first if the rows are those of the binary protocol.
"""

from __future__ import annotations

QUERY = b"\x03"
TYPED = b"\x00"
"""First bytes of payloads."""

DECIMAL, INTEGER, TEMPORAL, BYTES, INTRODUCED = 1, 2, 4, 5, 6
"""Extension codes of parameters."""

HEADER_BYTES = 4
MAX_PACKET_BYTES = 0xFFFFFF
"""The most bytes in one packet; a packet of this length is continued by the next one."""
OK, EOF, ERR = 0x00, 0xFE, 0xFF
"""First bytes of packets."""

BINARY_ROWS = bytes(HEADER_BYTES)
"""An empty packet of number 0, which no server sends."""
