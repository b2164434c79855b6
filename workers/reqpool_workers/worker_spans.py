"""How long a worker that is told to end may take. The supervisor's patience is made of these."""

from __future__ import annotations

DRAIN_S = 10.0
"""What it gets for all it still does, from the order on. What is not acknowledged by then is in doubt."""
DRAIN_PINS_S = 5.0
"""Of that, how long it waits with nothing to do for held connections to be let go of."""
ACKNOWLEDGE_S = 3.0
"""Of that, how long it waits, with a broker there, for clients to acknowledge what must not be repeated.

Those that live do so within a heartbeat, or once they have connected again. Where all that have not are
silent for longer than the liveness span, it does not wait: they must not hold a restart up."""
GOODBYE_LINGER_S = 1.0
"""How long its last words may take to leave."""
END_S = DRAIN_S + GOODBYE_LINGER_S
"""From the order to its end."""
