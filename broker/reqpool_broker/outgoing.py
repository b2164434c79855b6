"""Messages that the broker has decided to send. Cores only append; the server sends."""

from __future__ import annotations

from collections.abc import Iterable

from reqpool_contract import wire
from reqpool_contract.cached_settings import SettingsSender

GROUP_BYTES = 64
"""About what a lease group takes besides what varies in it."""


class Outgoing:
    """Messages to send, in order, one list per socket.

    Attributes:
        intake: ``[routing id, head]`` for clients that have no subscription yet.
        results: ``[topic, head]`` or ``[topic, head, blob]``.
        workers: ``[routing id, head]``, or followed by large payloads.
    """

    def __init__(self) -> None:
        self.intake: list[list[bytes]] = []
        self.results: list[list[bytes]] = []
        self.workers: list[list[bytes]] = []


def batches(groups: list[wire.LeaseGroup], cached: SettingsSender) -> Iterable[list[wire.LeaseGroup]]:
    """Split lease groups into messages of about MAX_BATCH_BYTES.

    Args:
        groups: with their settings.
        cached: which of those the worker has cached; what is to be sent before a message gathers there.
    """
    batch: list[wire.LeaseGroup] = []
    size_bytes = 0
    for group in groups:
        if group.settings and (kept := cached.place(group.settings)) is not None:
            group = group._replace(settings=b"", kept=kept)
        group_bytes = (
            sum(map(len, group.payloads))
            + len(group.settings)
            + len(group.trace or b"")
            + 4 * len(group.origin)
            + GROUP_BYTES
        )
        if batch and size_bytes + group_bytes > wire.MAX_BATCH_BYTES:
            yield batch
            batch, size_bytes = [], 0
        batch.append(group)
        size_bytes += group_bytes
    if batch:
        yield batch
