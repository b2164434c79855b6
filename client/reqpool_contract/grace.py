"""Times added to a request's deadline, so that each side can receive the outcome from the next one.

The worker ends a request at its deadline and reports that. Each side further away waits longer:

    deadline < + LEASE_GRACE_S (broker) < + CLUSTER_GRACE_S (client) < + ASKED_AGAIN_S (worker forgets)

The worker keeps the outcome for as long as a client may ask for it again over another connection.
"""

from __future__ import annotations

from . import limits

LEASE_GRACE_S = 0.1
"""Time past a deadline for which the broker waits for the worker's report."""
CLUSTER_GRACE_S = limits.CLUSTER_GRACE_MS / 1000
"""Time past a deadline for which the client waits for the broker's report: longer than the broker does."""
ASKED_AGAIN_S = CLUSTER_GRACE_S + limits.LIVENESS_MS / 1000
"""Time past its deadline for which a request may be asked for again: the client gives up after its grace, and
a message may take as long as a connection can be silent. The deadline is that of the lease, counted from its
receipt, and never earlier than the client's."""
