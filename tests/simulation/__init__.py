"""A whole cluster in one thread: the real cores, virtual time, a seeded scheduler, and faults at any step.

The cores of client, broker, worker and supervisor are the ones that ship; only sockets, processes, the clock
and the upstreams are simulated (:mod:`.network`, :mod:`.process`, :mod:`.scheduler`, :mod:`.upstream`). One
integer seed determines a run byte for byte: :mod:`.plan` draws who is there, what is asked and what goes
wrong, :mod:`.world` plays it, :mod:`.oracle` checks what is promised, :mod:`.shrink` makes a failing plan
short. ``python -m simulation --help`` (in ``tests/``) runs it by hand.
"""
