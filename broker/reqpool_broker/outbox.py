"""What the broker has decided to send. Cores only append; the server sends."""

from __future__ import annotations


class Outbox:
    """Messages to send, in order, one list per socket.

    Attributes:
        intake: ``[routing id, head]`` for clients that have no subscription yet.
        results: ``[topic, head]`` or ``[topic, head, blob]``.
        workers: ``[routing id, head]``.
    """

    def __init__(self) -> None:
        self.intake: list[list[bytes]] = []
        self.results: list[list[bytes]] = []
        self.workers: list[list[bytes]] = []
