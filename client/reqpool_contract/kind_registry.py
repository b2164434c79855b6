"""The registry of kinds: entry points of the installed packages."""

from __future__ import annotations

from importlib.metadata import EntryPoints, MetadataPathFinder, entry_points

from . import descriptors


def registered(group: str) -> EntryPoints:
    """Return all entry points of a group: ``reqpool.kinds`` or ``reqpool.worker_kinds``.

    Raises:
        OSError: the process does not have enough file descriptors to find them.
    """
    descriptors.check_spare()
    # A folder that could not be listed (for lack of a descriptor, say) counts as empty and is not listed
    # again (importlib.metadata, FastPath.children). importlib.invalidate_caches() helps only since 3.12.
    MetadataPathFinder().invalidate_caches()
    return entry_points(group=group)
