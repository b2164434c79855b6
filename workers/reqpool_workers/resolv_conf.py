"""How names are looked up here: ``/etc/resolv.conf`` (resolv.conf(5)).

The client half of ``dns`` reads only the name servers (:mod:`reqpool_contract.name_servers`), since it takes
names as they are; host names of upstreams are completed and retried as the file specifies.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, replace

from reqpool_contract.host_names import to_ascii
from reqpool_contract.name_servers import parse as name_servers

MAX_NDOTS = 15
MAX_TIMEOUT_S = 30
MAX_ATTEMPTS = 5
"""glibc's bounds of the three (resolv.conf(5))."""
MAX_SEARCH = 32
MAX_NAME_CHARACTERS = 253


@dataclass(frozen=True)
class ResolvConf:
    """The contents of a resolv.conf.

    Attributes:
        servers: canonical ``"ip:port"``, 1 to 3.
        search: domains that complete a name.
        ndots: a name with this many dots or more is tried as it is before it is completed.
        timeout_s: how long a server has in the first round, twice as long in each further one. The default is
            1 s, glibc's is 5 s: here a query is sent again meanwhile, and a connection must be made within
            seconds.
        attempts: rounds over the servers.
        rotate: begin with another server each time.
    """

    servers: tuple[str, ...]
    search: tuple[str, ...] = ()
    ndots: int = 1
    timeout_s: float = 1.0
    attempts: int = 2
    rotate: bool = False

    def candidates(self, host: str) -> list[str]:
        """Return the names to ask for, in order, none with a final dot.

        Args:
            host: a name; with a final dot it is complete.
        """
        name = host.rstrip(".")
        completed = [] if host.endswith(".") else [f"{name}.{domain}" for domain in self.search]
        names = [name, *completed] if name.count(".") >= self.ndots else [*completed, name]
        return [one for one in names if len(one) <= MAX_NAME_CHARACTERS] or [name]


def parse(text: str) -> ResolvConf:
    """Read a resolv.conf; malformed lines and words are skipped, as glibc does.

    The local domain is not guessed from the machine's own name.
    """
    conf = ResolvConf(name_servers(text))
    for line in text.splitlines():
        keyword, *words = line.split() or [""]
        if keyword in ("domain", "search"):  # the last one counts
            domains = map(_domain, words[: 1 if keyword == "domain" else MAX_SEARCH])
            conf = replace(conf, search=tuple(domain for domain in domains if domain))
        elif keyword == "options":
            for word in words:
                conf = _option(conf, word)
    return conf


def _domain(word: str) -> str:
    """Return a search domain; empty for the root, and for what is not a name."""
    with contextlib.suppress(ValueError):
        return to_ascii(word).lower().strip(".")
    return ""


def _option(conf: ResolvConf, word: str) -> ResolvConf:
    name, _, value = word.partition(":")
    if name == "rotate":
        return replace(conf, rotate=True)
    if not re.fullmatch("[0-9]{1,9}", value):
        return conf
    number = int(value)
    if name == "ndots":
        return replace(conf, ndots=min(number, MAX_NDOTS))
    if name == "timeout":
        return replace(conf, timeout_s=float(min(max(number, 1), MAX_TIMEOUT_S)))
    if name == "attempts":
        return replace(conf, attempts=min(max(number, 1), MAX_ATTEMPTS))
    return conf
