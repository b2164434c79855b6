"""Spans that are added to a request's deadline, so that each side can hear the outcome from the next one.

The worker ends a request at its deadline and reports that. Each side further from it waits longer:

    deadline < + LEASE_GRACE_S (broker) < + CLUSTER_GRACE_S (client) < + ASKED_AGAIN_S (worker forgets)

The worker keeps the outcome for as long as a client may ask for it once more over another connection.
"""

from __future__ import annotations

from . import limits

LEASE_GRACE_S = 0.1
"""How long past a deadline the broker waits for its worker's report."""
CLUSTER_GRACE_S = limits.CLUSTER_GRACE_MS / 1000
"""How long past a deadline the client waits for the broker's: longer than the broker does."""
ASKED_AGAIN_S = CLUSTER_GRACE_S + limits.LIVENESS_MS / 1000
"""How long past its deadline a request may be asked for again: its client gives it up after the grace, and
its message may take as long as a connection can be silent. The deadline is that of the lease, counted from
its receipt: never earlier than the client's."""
