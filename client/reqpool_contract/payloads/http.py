"""Payloads, answers and settings of kind ``http``.

Payload of a request:
    0  uint8   flags, below
    1  uint32  largest body that is accepted, in bytes
    5  bytes   the request as it is sent: request line, headers, body (RFC 9112)

The worker half adds after the request line what only it knows: ``Host`` for an upstream that was given by its
name, and ``Authorization`` from the upstream's settings.

Answer:
    The head, up to and including its empty line, and the body without its framing. The head is as received,
    or repaired (docs/kinds-http.md). 1xx heads and trailers are omitted. :attr:`Code.AGAIN` means a redirect
    to follow; its body is omitted unless it came together with its head, and its data begins with the URL
    (``http://host:port``) and CR LF if the upstream was given by its name.

Settings:
    ``tls`` map, see :meth:`reqpool_contract.tls_settings.Tls.settings`; ``user`` str and ``password`` str
    for basic authentication, or ``token`` str for a bearer token.
"""

from __future__ import annotations

from struct import Struct

HEADER = Struct("!BI")
"""Flags and largest body."""

HEAD = 1
"""The method is HEAD: the answer has no body, whatever its head says."""
FOLLOW = 2
"""Follow redirects."""
NO_CREDENTIALS = 4
"""Do not send those of the settings: the request has its own, or must not have any."""
NAMED = 8
"""The upstream was given by its name in ``reqpool.toml``."""
NO_HOST = 16
"""The request has no ``Host``: the worker half adds the upstream's."""
CLOSE = 32
"""Do not reuse the connection: the request says so, or it authenticates all that follow."""

REDIRECTS = frozenset((301, 302, 303, 307, 308))
"""Statuses of redirects that are followed if there is a ``Location`` (RFC 9110 §15.4)."""
