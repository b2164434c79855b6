"""How long an orderly end of a worker may take. The supervisor adds these up to know when to kill it."""

from __future__ import annotations

DRAIN_S = 10.0
"""For all that it still does, from the order on. Outcomes that are not acknowledged by then are in doubt."""
DRAIN_PINS_S = 5.0
"""Of that, how long it waits, with nothing to do, for pinned connections to be released."""
ACKNOWLEDGE_S = 3.0
"""Of that, how long it waits, if there is a broker, for clients to acknowledge what must not be repeated.

Clients that live do so within a heartbeat, or once they have connected again. If all that have not are silent
for longer than the liveness span, it does not wait: they must not delay a restart."""
GOODBYE_LINGER_S = 1.0
"""How long its last messages may take to leave."""
END_S = DRAIN_S + GOODBYE_LINGER_S
"""From the order to its end."""
