"""How long a broker that is told to end may take. The supervisor's patience is made of these."""

from __future__ import annotations

TICK_S = 0.05
"""How often time is looked at, and whether it is to end."""
LAST_WORDS_S = 0.2
"""How long it then hears what workers and the supervisor have said."""
GOODBYE_LINGER_S = 0.2
"""How long its goodbyes may take to leave."""
END_S = TICK_S + LAST_WORDS_S + GOODBYE_LINGER_S
"""From the order to its end, if it is not busy."""
