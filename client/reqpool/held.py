"""Sessions by the name that they had in 0.2.0, for kinds of third parties."""

from .pinned_session import PinnedSession as Held

__all__ = ["Held"]
