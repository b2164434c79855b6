"""What all sides of reqpool share: the wire and its checks, error codes, sockets, and the names of things.

Imports nothing else of reqpool's; the SDK, the broker, the workers and the operators' tools import it.
"""
