"""How long the way of a request is, in Python calls: counted on each side, and held under a ceiling.

Time depends on the machine and on what else it does; the number of calls does not, and most of the time goes
into them. ``test_client.py``, ``test_broker.py`` and ``test_worker.py`` each run the real code of their side,
from the message that comes in to the message that goes out, with scripted peers instead of ZeroMQ;
``test_sockets.py`` counts what ZeroMQ adds. Three loads: a lone request, 64 groups of one request each in one
turn (the cost of a group), and one group of 200 requests (the cost of a request).

A ceiling is the count of today with a little room: lower it when the way gets shorter.
``python -m calls`` (in ``tests/``) prints every count and what it is made of.
"""
