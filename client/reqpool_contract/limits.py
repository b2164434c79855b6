"""The numbers of the wire, times and limits: docs/protocol.md#limits. They are used as ``wire.NAME``."""

from __future__ import annotations

HEARTBEAT_MS = 500
"""Default interval of heartbeats, in both directions."""
LIVENESS_MS = 2_500
"""Default time of silence after which a peer is considered lost."""
SESSION_EXPIRY_MS = 60_000
"""Time of silence after which a broker forgets a client's session."""
CLUSTER_GRACE_MS = 200
"""Time after a request's deadline for which the client waits for the cluster's outcome."""

MAX_BATCH_REQUESTS = 512
"""Largest number of requests or results in one message."""
MAX_REFUSED_REQUESTS = 8 * MAX_BATCH_REQUESTS
"""Requests in one SUBMIT up to which they are refused one by one; with more, the message is unreadable."""
MAX_BATCH_BYTES = 1 << 20
"""Size at which a batch is sent; a larger payload travels alone."""
LARGE_MESSAGE_BYTES = 64 << 10
"""Larger messages delay those after them: the broker counts their bytes towards a worker, and the worker
answers each with a heartbeat at once."""
WINDOW_BYTES = 4 << 20
"""Bytes of large payloads that may be in transit from a client to the broker, or leased to one worker and not
yet received; a single larger one goes alone."""
PIECE_BYTES = 256 << 10
"""Size of the pieces in which a large payload is sent to its worker."""
PIECES_BYTES = 2 * PIECE_BYTES
"""While this much of large payloads is in transit to a worker, nothing large is sent to it."""
CONFIRM_BYTES = 512 << 10
"""Bytes of a worker's results that the broker confirms at once."""
RESULTS_WINDOW_BYTES = 2 * CONFIRM_BYTES
"""While this much of its results is in transit to the broker, a worker does not read on in large answers."""
MAX_PAYLOAD_BYTES = 16 << 20
"""Largest payload of one request."""
MAX_ANSWER_BYTES = 48 << 20
"""Largest answer to a request."""
MAX_MESSAGE_BYTES = 64 << 20
"""ZMQ_MAXMSGSIZE of the clients' and the broker's sockets: libzmq closes a connection that sends more."""
MAX_SUBMIT_BYTES = 32 << 20
"""Largest sum of the payloads in one SUBMIT."""
MAX_SLOTS = 1_000_000
"""Highest limit of a kind: of connections, requests in flight, or requests on a connection."""
MAX_SPAN_MS = 24 * 3600 * 1000
"""Longest timeout."""
MAX_ORIGIN_CHARS = 1024
MAX_SETTINGS_BYTES = 1 << 20
"""Largest settings of a connection. A file of all public certificate authorities has 200 to 800 KiB."""
UNTOLD_SETTINGS_BYTES = 64 << 10
"""Largest settings for a worker that does not report how many it keeps: one from before KEEP."""
KEPT_FROM_BYTES = 1 << 10
"""Settings of this size and more are kept by the receiver, see :mod:`.cached_settings`."""
SESSION_KEEPS = 8
"""Settings that the broker keeps for one session."""
WORKER_KEEPS = 64
"""Settings that a worker keeps for the broker."""
MAX_ORIGINS = 8
"""Largest number of upstreams that one request may try in turn."""
MAX_KIND_CHARS = 64
MAX_TRACE_BYTES = 4 << 10
MAX_NUMBER = 2**64 - 1
"""Largest integer that msgpack carries: the limit of seqs, pins and flags."""
MAX_NAME_CHARS = 200
"""Longest display name of a client or a worker; a longer one is cut."""
MAX_ERROR_CHARS = 2_000
"""Longest text of an error; a longer one is cut."""
MAX_ERROR_BYTES = 16 << 10
"""Largest details of an error: they are repeated for each of up to 512 requests in one message."""
MAX_SAMPLE_ORIGINS = 200
"""Origins in a worker's sample: the busiest ones."""
LOWEST_PRIORITY = 2
"""Priorities are 0 (first), 1 (default) and 2 (last)."""
