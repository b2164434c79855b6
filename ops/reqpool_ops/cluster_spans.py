"""How long the parts of a stop may take. Each wait is computed from what is waited for, so it is longer."""

from __future__ import annotations

from reqpool_broker import broker_spans as broker
from reqpool_workers import worker_spans as worker

MARGIN_S = 1.5
"""How long a process may take to get the CPU, notice, and end."""
WORKER_ENDS_S = worker.END_S + MARGIN_S
"""How long a worker that is told to end may take before it is killed."""
BROKER_ENDS_S = broker.END_S + MARGIN_S
"""The same for the broker."""
SERVE_ON_S = worker.DRAIN_S
"""How long a cluster that is told to stop serves on, while requests or pins from before that are left."""
STOP_ENDS_S = SERVE_ON_S + WORKER_ENDS_S + BROKER_ENDS_S + MARGIN_S
"""From the order to the end of all processes, the supervisor included: ``stop`` and ``start`` wait for it."""
