"""The kinds that are installed, by name; each is imported when it is first used."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from reqpool_contract import descriptors
from reqpool_contract.errors import UsageError
from reqpool_contract.kind_registry import registered
from reqpool_contract.masking import without_password

from .kind import Kind


class InstalledKinds(dict[str, Any]):
    """Maps names to kinds; a name that is missing is looked up among the entry points.

    A dict, so that a request of a loaded kind costs no Python call here.
    """

    def __missing__(self, name: str) -> Any:
        with descriptors.as_overloaded():
            # A package never tries again to import what failed for lack of one (pymysql: ssl).
            descriptors.check_spare()
            kind = self[name] = _registered(name).load()
        return kind


INSTALLED = InstalledKinds()


def find(name: str) -> Kind:
    """Return the kind registered as ``name``, importing its package on first use.

    Raises:
        UsageError: if no installed package registers that name.
        Overloaded: if the process is short of file descriptors.
    """
    kind: Kind = INSTALLED[name]
    return kind


def _registered(name: str) -> EntryPoint:
    found = entry_points(group="reqpool.kinds")
    if name not in found.names:
        found = registered("reqpool.kinds")
    if name not in found.names:
        known = ", ".join(sorted(found.names)) or "none (is reqpool installed?)"
        raise UsageError(f"unknown kind {without_password(name)!r}; installed kinds: {known}")
    return found[name]
