"""``reqpool.toml``: reading and checking it. docs/operations.md has the table of its keys.

All problems of a file are reported at once, each with file, line and key. A possible password, or a value in
a place where one may have been put by mistake, is never shown.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from reqpool.kinds import Kind, find
from reqpool_broker.client_limits import ClientLimits
from reqpool_broker.config import Config, NamedUpstream
from reqpool_contract import pem, wire
from reqpool_contract.errors import UsageError
from reqpool_contract.kind_registry import registered
from reqpool_contract.masking import without_passwords
from reqpool_contract.origin_names import NAME
from reqpool_contract.policy import Policy
from reqpool_contract.tls_settings import Tls

from .toml_lines import line_of, lines

MAX_FILE_BYTES = 1 << 20


class _Range(NamedTuple):
    lowest: float
    highest: int
    what: str


_COUNT = _Range(1, 1_000_000, "whole number")
_SECONDS = _Range(0.001, 30 * 86_400, "number of seconds")
_LIMITS: dict[str, _Range] = {
    "max_connections": _COUNT,
    "max_in_flight": _COUNT,
    "queue_timeout_s": _SECONDS,
    "connect_timeout_s": _SECONDS,
    "read_timeout_s": _SECONDS,
    "idle_timeout_s": _SECONDS,
    "lifetime_s": _SECONDS,
    "max_response_bytes": _Range(1, wire.MAX_ANSWER_BYTES, "whole number of bytes"),
    "retries": _Range(0, 10, "whole number"),
    "pin_idle_timeout_s": _SECONDS,
}
_CLIENT_LIMITS: dict[str, _Range] = {
    "max_pending": _COUNT,
    "max_queued_bytes": _Range(wire.MAX_PAYLOAD_BYTES, 1 << 30, "whole number of bytes"),
    "max_connections": _Range(2, 1_000_000, "whole number"),  # a client has two
    "max_messages_per_s": _COUNT,
    "max_refused_subscriptions": _Range(2, 1_000_000, "whole number"),  # who connects again has one
}
_TEXTS = ("url", "password_env", "password_file")
_TLS_TEXTS = ("ca", "cert", "key", "server_name")
_NO_PASSWORD_HERE = (
    "a password does not belong in this file: name an environment variable with password_env, or a file with "
    "password_file"
)

Place = tuple[str, ...]
"""A place in the file: ``("upstreams", "cache", "url")``."""


class ConfigError(UsageError):
    """A configuration file that is not accepted; the text has a line for each problem, in their order."""


class Installed(NamedTuple):
    """The kinds that upstreams can have.

    Attributes:
        kinds: those that could be loaded.
        broken: why others could not be loaded, by name.
    """

    kinds: tuple[Kind, ...]
    broken: Mapping[str, str]


def installed() -> Installed:
    """Load every kind that is registered.

    Raises:
        OSError: if the process is short of file descriptors.
    """
    kinds, broken = [], {}
    for name in sorted(registered("reqpool.kinds").names):
        try:
            kinds.append(find(name))
        except Exception as error:  # any package may be here: a broken one must not stop the others
            broken[name] = f"{type(error).__name__}: {error}"
    return Installed(tuple(kinds), broken)


def load(path: str | os.PathLike[str]) -> Config:
    """Read and check a file, and the files and environment variables that it names.

    Args:
        path: the file's; paths in it are relative to its folder.

    Raises:
        ConfigError: if anything about it is wrong.
    """
    file = os.fspath(path)
    try:
        with open(file, "rb") as opened:
            raw = opened.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{without_passwords(file)}: {error.strerror}") from error
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError(f"{file}: larger than {MAX_FILE_BYTES} bytes, so not a configuration file")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        number = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{file}:{number}: not UTF-8, as TOML must be") from error
    return read(text, file, os.environ)


def read(text: str, file: str, environ: Mapping[str, str], known: Installed | None = None) -> Config:
    """Check the text of a configuration file.

    Args:
        text: the file's.
        file: its path, for errors; paths in the text are relative to its folder.
        environ: environment variables.
        known: the kinds; None for the installed ones.

    Raises:
        ConfigError: if anything about it is wrong.
    """
    text = text.replace("\r\n", "\n")
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(_syntax(str(error), text, file)) from error
    except (ValueError, RecursionError) as error:  # a number with thousands of digits, deeply nested brackets
        raise ConfigError(f"{file}:1: not a configuration file: {error}") from error
    reader = _Reader(Path(file).absolute().parent, environ, known)
    config = reader.config(tables)
    if reader.problems:
        found = lines(text)
        placed = sorted((line_of(found, where), ".".join(where), why) for where, why in reader.problems)
        said = (f"{file}:{line}: {without_passwords(where)}: {why}" for line, where, why in placed)
        raise ConfigError("\n".join(said))
    return config


def _syntax(said: str, text: str, file: str) -> str:
    """Put tomllib's text for a syntax error into the form of the other problems."""
    place = re.search(r" \(at line (\d+), column (\d+)\)$", said)
    if place is None:
        last = len(text.split("\n")) - text.endswith("\n")
        return f"{file}:{last}: {said.removesuffix(' (at end of document)')}"
    return f"{file}:{place[1]}: column {place[2]}: {said[: place.start()]}"


class _Reader:
    """Checks one file's tables and collects the problems, by place."""

    def __init__(self, folder: Path, environ: Mapping[str, str], known: Installed | None) -> None:
        self.problems: list[tuple[Place, str]] = []
        self._folder = folder
        self._environ = environ
        self._known = known

    def config(self, tables: dict[str, Any]) -> Config:
        self._check_keys((), tables, ("clients", "defaults", "upstreams"))
        given = self._table(("defaults",), tables.get("defaults", {}))
        self._check_keys(("defaults",), given, _LIMITS)
        defaults = replace(Policy(), **self._limits(("defaults",), given))
        given = self._table(("clients",), tables.get("clients", {}))
        self._check_keys(("clients",), given, _CLIENT_LIMITS)
        clients = ClientLimits(**self._in_range(("clients",), given, _CLIENT_LIMITS))
        upstreams = []
        for name, table in self._table(("upstreams",), tables.get("upstreams", {})).items():
            upstream = self._upstream(name, table, defaults)
            if upstream is not None:
                upstreams.append(upstream)
        self._check_shared(upstreams)
        return Config(upstreams, defaults, clients)

    def _upstream(self, name: str, about: object, defaults: Policy) -> NamedUpstream | None:
        """Read one upstream's table; return None if anything about it is wrong."""
        problems_before = len(self.problems)
        at = ("upstreams", name)
        if not NAME.fullmatch(name):
            rule = "a letter, then letters, digits, '_', '.' and '-', at most 64 characters"
            self._problem(at, f"is not a valid name: use {rule}")
        table = self._table(at, about)
        if table is not about:
            return None
        self._check_keys(at, table, (*_TEXTS, "tls", *_LIMITS))
        texts = self._texts(at, table, _TEXTS)
        kinds = self._kinds(at, table, texts)
        policy = replace(defaults, **self._limits(at, table, kinds))
        password = self._password(at, texts)
        tls = self._tls((*at, "tls"), table["tls"]) if "tls" in table else None
        if len(self.problems) > problems_before:
            return None
        url = texts["url"]
        try:
            endpoint = unnamed = kinds[0].endpoint(url, password=password, tls=tls)
            if type(kinds[0]).follow is not Kind.follow:
                unnamed = kinds[0].endpoint(
                    re.sub("(?<=://)[^/?#]*@", "", url), tls=tls and replace(tls, cert=None, key=None)
                )
        except UsageError as error:
            self._problem((*at, "url"), str(error))
            return None
        return NamedUpstream(name, tuple(kind.name for kind in kinds), endpoint, unnamed, policy)

    def _kinds(self, at: Place, table: dict[str, Any], texts: dict[str, str]) -> list[Kind]:
        """Return the kinds that a URL's scheme belongs to; none, and a problem noted, if there are none."""
        if "url" not in texts:
            if "url" not in table:
                self._problem(at, "has no url")
            return []
        at = (*at, "url")
        scheme, separator, _ = texts["url"].partition("://")
        if not separator or not re.fullmatch("[A-Za-z][A-Za-z0-9+.-]*", scheme):
            self._problem(at, "is not a URL; write it like redis://10.0.0.5:6379/0")
            return []
        if _has_password(texts["url"]):
            self._problem(at, f"has a password in it; {_NO_PASSWORD_HERE}")
            return []
        if self._known is None:
            try:
                self._known = installed()
            except OSError as error:
                self._problem(at, f"cannot be checked: {error.strerror}")
                return []
        kinds = [kind for kind in self._known.kinds if scheme.lower() in kind.schemes]
        if not kinds:
            schemes = {each for kind in self._known.kinds for each in kind.schemes}
            broken = [f"kind {name!r} cannot be loaded ({why})" for name, why in self._known.broken.items()]
            hint = "; ".join([_suggestion(scheme.lower(), schemes), *broken])
            self._problem(at, f"no installed kind handles {scheme[:40]}:// URLs; {hint}")
        return kinds

    # --- secrets ---

    def _password(self, at: Place, texts: dict[str, str]) -> str | None:
        variable, file = texts.get("password_env"), texts.get("password_file")
        if variable is not None and file is not None:
            self._problem((*at, "password_file"), "password_env is also given; give only one of the two")
        elif variable is not None:
            # Its name is not shown: it may be the password itself, given in the wrong key.
            password = self._environ.get(variable)
            if password:
                return password
            state = "is not set" if password is None else "is empty"
            self._problem((*at, "password_env"), f"names an environment variable that {state}")
        elif file is not None:
            return self._password_of((*at, "password_file"), file)
        return None

    def _password_of(self, at: Place, file: str) -> str | None:
        try:
            with open(self._folder / file, encoding="utf-8") as opened:
                password = opened.readline(65536).rstrip("\r\n")
        except (OSError, ValueError) as error:
            why = (isinstance(error, OSError) and error.strerror) or "it is not UTF-8"
            self._problem(
                at, f"cannot read the file it names: {why} (relative paths start at {self._folder})"
            )
            return None
        if not password:
            self._problem(at, "names a file whose first line is empty")
        return password

    def _tls(self, at: Place, about: object) -> Tls | None:
        """Read a table ``tls``, and check that the files that it names can be used."""
        problems_before = len(self.problems)
        table = self._table(at, about)
        self._check_keys(at, table, (*_TLS_TEXTS, "verify"))
        texts = self._texts(at, table, _TLS_TEXTS)
        verify = table.get("verify", True)
        if not isinstance(verify, bool):
            self._problem((*at, "verify"), f"{_shown(verify)} is neither true nor false")
        if "key" in texts and "cert" not in texts:
            self._problem((*at, "key"), "needs cert as well")
        paths = {name: str(self._folder / texts[name]) for name in ("ca", "cert", "key") if name in texts}
        if "ca" in paths:
            self._pem(at, pem.authorities, paths["ca"])
        if "cert" in paths:
            self._pem(at, pem.own, paths["cert"], paths.get("key"))
        try:
            tls = Tls(verify=bool(verify), server_name=texts.get("server_name"), **paths)
            if len(self.problems) == problems_before:
                tls.settings()  # raises if they are too large to be sent
        except UsageError as error:
            self._problem(at, error.text)
            return None
        return tls

    def _pem(self, at: Place, read: Callable[..., object], *paths: str | None) -> None:
        try:
            read(*paths)
        except UsageError as error:
            name, _, why = error.text.removeprefix("tls ").partition("=")
            self._problem((*at, name), why)

    # --- values ---

    def _limits(self, at: Place, table: dict[str, Any], kinds: Iterable[Kind] = ()) -> dict[str, Any]:
        """Return the valid limits of upstreams in a table."""
        limits = self._in_range(at, table, _LIMITS)
        for kind in kinds:
            wrong, right = ("max_in_flight", "max_connections")
            if kind.connectionless:
                wrong, right = right, wrong
            if wrong in table:
                has = "no connections" if kind.connectionless else "connections"
                self._problem((*at, wrong), f"kind {kind.name!r} has {has}: its limit is {right}")
                break
        return limits

    def _in_range(self, at: Place, table: dict[str, Any], ranges: Mapping[str, _Range]) -> dict[str, Any]:
        """Return the valid numbers in a table."""
        right = {}
        for name, allowed in ranges.items():
            if name not in table:
                continue
            value = table[name]
            whole = "whole" in allowed.what
            fits = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
            if fits and allowed.lowest <= value <= allowed.highest:  # not true of NaN
                right[name] = value
            else:
                rule = f"{allowed.what} from {allowed.lowest} to {allowed.highest}"
                self._problem((*at, name), f"{_shown(value)} is not a {rule}")
        return right

    def _texts(self, at: Place, table: dict[str, Any], names: Iterable[str]) -> dict[str, str]:
        """Return the valid strings in a table."""
        texts = {}
        for name in names:
            value = table.get(name)
            if isinstance(value, str) and value and "\0" not in value:
                texts[name] = value
            elif name in table:
                self._problem((*at, name), "is empty" if value == "" else "must be a quoted string")
        return texts

    def _table(self, at: Place, about: object) -> dict[str, Any]:
        """Return a value if it is a table, otherwise an empty one."""
        if isinstance(about, dict):
            return about
        self._problem(at, f"must be a table: write [{'.'.join(at)}] above its keys")
        return {}

    def _check_keys(self, at: Place, table: dict[str, Any], known: Collection[str]) -> None:
        for name in table.keys() - known:
            if name in ("password", "token", "secret"):
                self._problem((*at, name), _NO_PASSWORD_HERE)
            else:
                self._problem((*at, name), f"unknown key; {_suggestion(name, known)}")

    def _check_shared(self, upstreams: list[NamedUpstream]) -> None:
        """Check that upstreams at one server have equal limits, which are counted per server."""
        first: dict[str, NamedUpstream] = {}
        for upstream in upstreams:
            other = first.setdefault(upstream.key, upstream)
            for name in ("max_connections", "max_in_flight"):
                ours, theirs = getattr(upstream.policy, name), getattr(other.policy, name)
                if ours != theirs:
                    at = ("upstreams", upstream.name, name)
                    said = "nothing" if theirs is None else theirs
                    why = f"upstream {other.name!r} sets {said}, but both are at {upstream.key}"
                    self._problem(at, f"{why}, which has one limit: give both the same")

    def _problem(self, at: Place, why: str) -> None:
        self.problems.append((at, why))


assert _LIMITS.keys() == {field.name for field in fields(Policy)}
assert _CLIENT_LIMITS.keys() == {field.name for field in fields(ClientLimits)}


def _has_password(url: str) -> bool:
    rest = url.partition("://")[2]
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    if "@" in authority:
        return ":" in authority.rpartition("@")[0]
    # A password with a "/" in it ends the authority early, and what is left of it is not a port.
    port = authority.rpartition("]")[2].partition(":")[2]
    return "@" in rest and bool(port) and not port.isdecimal()


def _suggestion(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), 1)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(sorted(known)) or 'none'}"


def _shown(value: object) -> str:
    """Return a value as TOML writes it, shortened."""
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "an array"
    text = without_passwords(json.dumps(value, ensure_ascii=False, default=str))
    return text if len(text) <= 40 else f"{text[:39]}…"
