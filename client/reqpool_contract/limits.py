"""The numbers of the wire: spans and bounds, docs/protocol.md#limits. Read them as ``wire.NAME``."""

from __future__ import annotations

HEARTBEAT_MS = 500
"""Default span between two heartbeats, both ways."""
LIVENESS_MS = 2_500
"""Default silence after which a peer counts as lost."""
SESSION_EXPIRY_MS = 60_000
"""Silence after which a broker forgets a client's session."""
CLUSTER_GRACE_MS = 200
"""How long past a request's deadline the stub waits for the cluster's own word."""

MAX_BATCH_REQUESTS = 512
"""Most requests or results in one message."""
MAX_REFUSED_REQUESTS = 8 * MAX_BATCH_REQUESTS
"""Requests in one SUBMIT that are refused one by one; with more it counts as unreadable."""
MAX_BATCH_BYTES = 1 << 20
"""Size at which a batch is sent; one single larger payload travels alone."""
LARGE_MESSAGE_BYTES = 64 << 10
"""What is larger holds up what comes behind it: the broker counts its bytes towards a worker, and the worker
answers it with a heartbeat at once."""
WINDOW_BYTES = 4 << 20
"""Large payloads that may be on their way from a client to the broker, or leased to one worker and not yet
there; a single larger one goes alone."""
PIECE_BYTES = 256 << 10
"""A large payload goes to its worker in pieces of this size."""
PIECES_BYTES = 2 * PIECE_BYTES
"""While so much of large payloads is on its way to a worker and has not arrived, nothing large is sent."""
CONFIRM_BYTES = 512 << 10
"""Results of a worker after which the broker tells it at once that they have arrived."""
RESULTS_WINDOW_BYTES = 2 * CONFIRM_BYTES
"""While so much of results is on its way to the broker, a worker reads nothing more of large answers."""
MAX_PAYLOAD_BYTES = 16 << 20
"""Largest payload of one request."""
MAX_ANSWER_BYTES = 48 << 20
"""Largest answer of a request that can be asked for."""
MAX_MESSAGE_BYTES = 64 << 20
"""ZMQ_MAXMSGSIZE of the clients' and the broker's sockets: libzmq drops the connection that sends more."""
MAX_SUBMIT_BYTES = 32 << 20
"""Most payload bytes in one SUBMIT."""
MAX_SLOTS = 1_000_000
"""Most connections, requests in flight or requests on a connection that a kind may ask for."""
MAX_SPAN_MS = 24 * 3600 * 1000
"""Longest timeout that can be asked for."""
MAX_ORIGIN_CHARS = 1024
MAX_SETTINGS_BYTES = 1 << 20
"""Largest settings of a connection. A file of all public authorities has 200 to 800 KiB."""
UNTOLD_SETTINGS_BYTES = 64 << 10
"""What a worker takes that does not say how many settings it keeps: one from before KEEP."""
KEPT_FROM_BYTES = 1 << 10
"""Settings from this size on are kept by the receiver, see :mod:`.keeping`."""
SESSION_KEEPS = 8
"""How many settings the broker keeps for one session."""
WORKER_KEEPS = 64
"""How many settings a worker keeps for the broker."""
MAX_ORIGINS = 8
"""Most upstreams that one request may try in turn."""
MAX_KIND_CHARS = 64
MAX_TRACE_BYTES = 4 << 10
MAX_NUMBER = 2**64 - 1
"""Largest integer that msgpack carries: of seqs, pins and flags."""
MAX_NAME_CHARS = 200
"""Of the name that a client or a worker has for people; a longer one is cut."""
MAX_ERROR_CHARS = 2_000
"""Of an error's text; a longer one is cut."""
MAX_ERROR_BYTES = 16 << 10
"""Of an error's details: they are repeated for each of up to 512 requests in one message."""
MAX_SAMPLE_ORIGINS = 200
"""Origins in a worker's sample: those with the most to do."""
LOWEST_PRIORITY = 2
"""Priorities are 0 (first), 1 (default) and 2 (last)."""
