"""Names that a machine resolves itself: ``/etc/hosts`` (hosts(5))."""

from __future__ import annotations

from reqpool_contract.host_names import canonical_address

Hosts = dict[str, tuple[str, ...]]
"""Name, in lower case, to its addresses in the file's order."""


def parse(text: str) -> Hosts:
    """Read a hosts file; malformed lines are skipped, as glibc does."""
    found: Hosts = {}
    for line in text.splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        canonical = canonical_address(address)
        if canonical is None:
            continue
        for name in names:
            key = name.lower().rstrip(".")
            known = found.get(key, ())
            if canonical not in known:
                found[key] = (*known, canonical)
    return found
