"""Predicates on DNS messages: does an answer match a query, and who should be asked next? RFC 1035.

A query is whole: header, one question, perhaps OPT. ``end`` is the offset just after its question.
"""

from __future__ import annotations

from reqpool_contract.errors import UsageError

HEADER_BYTES = 12
QR = 0x80
"""Bit of byte 2: this is a response."""
OPCODE = 0x78
"""Bits of byte 2; 0 is a look-up."""
AA = 0x04
"""Bit of byte 2: the server answers for its own zone."""
TC = 0x02
"""Bit of byte 2: cut short, ask over TCP."""
RA = 0x80
"""Bit of byte 3: the server looks up what it does not know."""
RCODE = 0x0F
"""Bits of byte 3."""
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)
REFUSALS = frozenset((FORMERR, SERVFAIL, NOTIMP, REFUSED))
"""They are about the server, not about the name: another server may know better."""
OPT = b"\x00\x00\x29"
"""Owner (the root) and type of OPT."""


def question_end(query: bytes) -> int:
    """Return the offset just after the one question of a query.

    Raises:
        UsageError: if it is not a query with a question.
    """
    end = HEADER_BYTES
    try:
        while length := query[end]:
            end += length + 1
    except IndexError:
        end = len(query)
    end += 5  # the root label, type and class
    if end > len(query) or len(query) > 0xFFFF:
        raise UsageError("payload is not a DNS query")
    return end


def same_question(answer: bytes, query: bytes, end: int) -> bool:
    """Return whether ``answer`` repeats the question of ``query``, except for the case of letters."""
    if answer.startswith(query[HEADER_BYTES:end], HEADER_BYTES):
        return True
    # Length bytes are under 64, so lower() leaves them alone; type and class it would not.
    return (
        answer[HEADER_BYTES : end - 4].lower() == query[HEADER_BYTES : end - 4].lower()
        and answer[end - 4 : end] == query[end - 4 : end]
    )


def answers(message: bytes, query: bytes, end: int) -> bool:
    """Return whether this message, which has the id of ``query``, is a response to it.

    A server that refuses need not repeat the question: Unbound sends a bare header. Such a message counts
    only if it refuses and has no record. A sender who could forge it could forge the question as well.
    dnspython has the same rule.
    """
    if len(message) < HEADER_BYTES or message[2] & (QR | OPCODE) != QR:
        return False
    if message[3] & RCODE in REFUSALS and (len(message) == HEADER_BYTES or not any(message[4:10])):
        return True
    return same_question(message, query, end)


def lacks_edns(answer: bytes, query: bytes, end: int) -> bool:
    """Return whether ``answer`` looks as if the server did not understand the OPT in ``query``.

    RFC 6891 §7 asks for FORMERR, some servers send NOTIMP; some repeat the OPT with it (c-ares 911).
    SERVFAIL counts only if the answer has no OPT, which a server that has EDNS must send. BADVERS is refused
    by the OPT of the answer, where the upper bits of the rcode are.
    """
    if len(query) == end:
        return False
    rcode = answer[3] & RCODE
    if rcode in (FORMERR, NOTIMP):
        return True
    if rcode == SERVFAIL:
        return not any(answer[10:12])
    return (
        rcode == NOERROR and answer[6:8] == b"\0\0" and answer[end : end + 3] == OPT and answer[end + 5] == 1
    )


def without_edns(query: bytes, end: int) -> bytes:
    """Return a query without its OPT."""
    return query[:10] + b"\0\0" + query[HEADER_BYTES:end]


def lame(answer: bytes) -> bool:
    """Return whether this server has no answer, cannot find one, and refers to others."""
    flags, more = answer[2], answer[3]
    return not more & RCODE and not any(answer[6:8]) and not flags & AA and not more & RA


def unhelpful(answer: bytes) -> bool:
    """Return whether another server may have a better answer. NXDOMAIN is one that all would give."""
    return answer[3] & RCODE in REFUSALS or lame(answer)
