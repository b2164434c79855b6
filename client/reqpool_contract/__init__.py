"""What all parts of reqpool share: the wire and its checks, error codes, sockets, and names of origins.

It imports no other package of reqpool; the SDK, the broker, the workers and the operators' tools import it.
"""
