"""What the halves of kind ``http`` say to each other.

Payload of a request:
    0  uint8   flags, below
    1  uint32  largest body that is taken, in bytes
    5  bytes   the request as it goes out: request line, headers, body (RFC 9112)

The worker half puts what only it knows behind the request line: ``Host`` where the upstream was called by
name, ``Authorization`` where the upstream's settings have one.

Answer:
    The head, up to and including its empty line, and the body without its framing. The head is as it came, or
    repaired (docs/kinds-http.md). 1xx heads and trailers are left out. :attr:`Code.AGAIN` stands for a
    redirect that is to be followed; its body is left out unless it came together with its head. Where the
    upstream was called by name, its URL (``http://host:port``) and CR LF come first in the data then.

Settings:
    ``tls`` map, see :meth:`reqpool_contract.tls_settings.Tls.settings`; ``user`` str and ``password`` str
    for basic authentication, or ``token`` str for a bearer token.
"""

from __future__ import annotations

from struct import Struct

HEADER = Struct("!BI")
"""Flags and largest body."""

HEAD = 1
"""The method is HEAD: whatever its head says, the answer has no body."""
FOLLOW = 2
"""Redirects are to be followed."""
NO_CREDENTIALS = 4
"""Those of the settings are not to be sent: the request has its own, or must not have any."""
NAMED = 8
"""The upstream was called by its name in the config."""
NO_HOST = 16
"""The request has no ``Host``: the worker half is to put in the upstream's."""
CLOSE = 32
"""The connection is not for another request: this one says so, or proves who sends it for all that follow."""

REDIRECTS = frozenset((301, 302, 303, 307, 308))
"""Statuses that are followed where a ``Location`` comes with them (RFC 9110 §15.4)."""
