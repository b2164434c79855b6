"""How long a broker that is told to end may take; the supervisor waits for the sum of these."""

from __future__ import annotations

COME_S = 1.25
"""How long a broker stays at least if workers of the previous one live: a client or worker that has lost that
one dials again after 1 s at most, and has to be heard."""
TICK_S = 0.05
"""How often deadlines are checked, and whether it is to end."""
LAST_WORDS_S = 0.2
"""How long it then reads what workers and the supervisor have sent."""
GOODBYE_LINGER_S = 0.2
"""How long its goodbyes may take to leave."""
END_S = COME_S + TICK_S + LAST_WORDS_S + GOODBYE_LINGER_S
"""From the order to its end, if it is not busy."""
STOP_WAIT_S = 10.0
"""When a cluster stops, its workers do not wait for requests that have run for longer, nor for idle
connections that have been pinned for longer: it has already served on this long for them."""
