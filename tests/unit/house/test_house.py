"""Rules that all of the product's sources obey; the sources are read, not run.

The tables named `..._YET` list what breaks a rule today. They may only shrink: a test fails on anything that
is not listed, and also on an entry that is no longer needed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path
from textwrap import dedent

import pytest

from support.sources import Import, Module, cycles, imported, product, read, ways

MODULES = product()
PACKAGES = sorted({module.package for module in MODULES.values()})

MAY_IMPORT = {
    "reqpool_contract": "",
    "reqpool": "reqpool_contract",
    "reqpool_broker": "reqpool_contract",
    "reqpool_workers": "reqpool_contract",
    "reqpool_ops": "reqpool_contract reqpool reqpool_broker reqpool_workers",
}
"""Each package, and the others that it may import."""

IMPORTED_YET: dict[tuple[str, str], str] = {}
"""Modules of the second package that the first still imports; what both need belongs in the contract."""

NAMED_TWICE_YET: dict[int, str] = {}
"""How many classes have one name, and which names."""

FILED_TWICE = {
    "__main__": "what `python -m` runs",
    "dns http http_body mysql redis tcp udp": "a kind's client half, worker half, payloads and command",
    "dns_answer errors masking": "where apps and kinds of third parties import what the contract defines",
    "origin": "the broker's record, and where kinds of third parties import names of origins",
}
"""Names of several modules, and why they stay."""

FILED_TWICE_YET: dict[int, str] = {}
"""How many modules have one name, and which names."""

MOST_LINES = 450

LONG_YET = {}
"""Longer files, and the most lines of each: today's, rounded up to the next 25."""

CYCLES_YET: list[tuple[str, str]] = []
"""Modules of one package that import each other, type-only imports included."""

CORES = {
    "reqpool": (
        "client_conversation send_queues batching pending outage completions entry stats kinds kinds.*"
        " session_protocol session_state session_actions submit_window results_window resubmission"
    ),
    "reqpool_contract": "*",
    "reqpool_broker": "*",
    "reqpool_workers": (
        "worker_conversation reporting draining granted_slots hosts large_reads lease"
        " address_order close_verdict"
        " lease_outcomes lease_timers leases reports worker_ledger"
        " broker_liveness look_up name_cache outcome_sink reconnect_delay retained_results owed_ports pieces"
        " connection_pool connection_state worker_upstreams protocols protocols.*"
    ),
    "reqpool_ops": "reign shutdown",
}
"""Modules that decide and do no I/O: sockets, threads, the time and random numbers are passed to them."""

SHELLS = {
    "reqpool": "",
    "reqpool_contract": (
        "counted_log descriptors peer_credentials pem socket_monitor socket_owner watched_file zmq_sockets"
    ),
    "reqpool_broker": "__main__ connection_gate freeze_detector process publisher server",
}
"""Modules that match a pattern of CORES and are not cores."""

FORBIDDEN_IN_CORES = (
    "_thread asyncio multiprocessing os.urandom queue random secrets select selectors socket ssl subprocess"
    " threading time uuid zmq"
)

HARMLESS = {
    ("reqpool_contract.counted_log", "time"): "only lines of a log depend on it",
    ("reqpool_contract.payloads.dns_answer", "socket"): "inet_ntop is a pure function",
    ("reqpool_contract.payloads.dns_data", "socket"): "inet_ntop is a pure function",
    ("reqpool_workers.protocols.addresses", "socket"): "numbers of address families and interfaces",
    ("reqpool_workers.protocols.dns", "os.urandom"): "ids that cannot be guessed, and decide nothing",
    ("reqpool_workers.protocols.tls_context", "ssl"): "settings of buffers in memory, not of sockets",
    ("reqpool_workers.protocols.tls_engine", "ssl"): "works on buffers in memory, not on a socket",
    ("reqpool_workers.protocols.tls_errors", "ssl"): "classes of errors",
}
"""Imports that a core may have although they are forbidden, and why they do no harm."""

REACHED_YET: dict[tuple[str, str], str] = {
    ("reqpool", "os.urandom"): "kinds.http kinds.http_body",
    ("reqpool", "ssl"): (
        "kinds.address_target kinds.dns kinds.http kinds.http_body kinds.http_url kinds.mysql"
        " kinds.origin kinds.redis kinds.tcp kinds.udp"
    ),
    ("reqpool_contract", "ssl"): "tls_settings",
    ("reqpool", "time"): " kinds.dns",
}
"""The cores of a package that reach something forbidden, in one step or through other modules."""

TESTS_OWN = {"tests", "support", "conftest", "pytest", "hypothesis"}

HERE = Path(__file__).name


def names(package: str, text: str) -> set[str]:
    """Return the full names of a table's short ones."""
    return {f"{package}.{name}" for name in text.split()}


def hold(faults: Iterable[str]) -> None:
    """Fail with one line for each fault."""
    if found := list(faults):
        pytest.fail("\n".join(found), pytrace=False)


def needless(table: str, entry: object) -> str:
    return f"{HERE}: {entry} in {table} is no longer needed: remove it"


def repeated(places: Mapping[str, list[str]], table: str, by_count: Mapping[int, str]) -> Iterator[str]:
    """Report names with more places than the table admits, or fewer."""
    yet = {name: count for count, text in by_count.items() for name in text.split()}
    for name, found in sorted(places.items()):
        if len(found) > yet.get(name, 1):
            yield f"{', '.join(found)}: {len(found)} are called {name}: give each idea a name of its own"
    for name, count in yet.items():
        found = places.get(name, [])
        if len(found) < 2:
            yield needless(table, name)
        elif len(found) < count:
            yield f"{HERE}: {table} admits {count} {name}, and there are {len(found)}: correct it"


def test_a_class_name_is_defined_once() -> None:
    places = defaultdict(list)
    for module in MODULES.values():
        for name, line in module.classes:
            places[name].append(module.at(line))
    hold(repeated(places, "NAMED_TWICE_YET", NAMED_TWICE_YET))


def test_a_module_name_is_used_once() -> None:
    reasoned = {name for text in FILED_TWICE for name in text.split()}
    places = defaultdict(list)
    for module in MODULES.values():
        if (name := module.name.rpartition(".")[2]) not in reasoned:
            places[name].append(module.file)
    hold(repeated(places, "FILED_TWICE_YET", FILED_TWICE_YET))


def test_reasons_are_given_for_what_is_there() -> None:
    count = Counter(module.name.rpartition(".")[2] for module in MODULES.values())
    hold(needless("FILED_TWICE", name) for text in FILED_TWICE for name in text.split() if count[name] < 2)
    hold(
        needless("HARMLESS", f"{what} of {name}")
        for name, what in HARMLESS
        if name not in MODULES or what not in {forbidden(entry) for entry in MODULES[name].imports}
    )


def test_no_file_is_too_long_to_be_about_one_thing() -> None:
    def faults() -> Iterator[str]:
        for module in MODULES.values():
            most = LONG_YET.get(module.name, MOST_LINES)
            if module.lines > most:
                yield f"{module.file}:{most}: has {module.lines} lines, at most {most}: split it by decision"
        for name in LONG_YET:
            if name not in MODULES or MODULES[name].lines <= MOST_LINES:
                yield needless("LONG_YET", name)

    hold(faults())


def test_modules_do_not_import_each_other() -> None:
    yet = [names(package, text) for package, text in CYCLES_YET]

    def faults() -> Iterator[str]:
        found = cycles(MODULES)
        for knot in found:
            if not any(known.issuperset(knot) for known in yet):
                new = set(knot).difference(*yet) or set(knot)
                yield f"{round_trip(min(new))}: import in one direction, or move what both need to a third"
        knotted = {name for knot in found for name in knot}
        for known in yet:
            yield from (needless("CYCLES_YET", name) for name in sorted(known - knotted))

    hold(faults())


def round_trip(start: str) -> str:
    """Describe a shortest cycle through `start`."""
    back = [
        ways(MODULES, first, type_only=True).get(start)
        for first in imported(MODULES, MODULES[start], type_only=True)
    ]
    return ", ".join(described((start, *min((way for way in back if way), key=len)), type_only=True))


def described(way: tuple[str, ...], *, type_only: bool) -> list[str]:
    """Say where each module of the way imports the next."""
    return [
        f"{MODULES[one].at(imported(MODULES, MODULES[one], type_only=type_only)[other].line)} imports {other}"
        for one, other in pairwise(way)
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_those_that_it_may(package: str) -> None:
    assert package in MAY_IMPORT, f"{HERE}: list in MAY_IMPORT what {package} may import"
    barred = set(PACKAGES) - {package} - set(MAY_IMPORT[package].split())
    yet = {name for (who, whom), text in IMPORTED_YET.items() if who == package for name in names(whom, text)}
    found = {
        entry.name: module.at(entry.line)
        for module in of(package)
        for entry in module.imports
        if entry.name.partition(".")[0] in barred
    }
    may = f"{package} may import {MAY_IMPORT[package] or 'no other package of ours'}"
    hold(
        [f"{found[name]}: imports {name}: {may}" for name in sorted(found.keys() - yet)]
        + [needless(f"IMPORTED_YET of {package}", name) for name in sorted(yet - found.keys())]
    )


def of(package: str) -> list[Module]:
    return [module for module in MODULES.values() if module.package == package]


@pytest.mark.parametrize("package", PACKAGES)
def test_relative_imports_stay_in_their_package(package: str) -> None:
    hold(
        f"{module.at(line)}: leaves {package}: name the other package"
        for module in of(package)
        for line in module.escapes
    )


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_installed_imports_the_tests(package: str) -> None:
    hold(
        f"{module.at(entry.line)}: imports {entry.name}, which is not installed with {package}"
        for module in of(package)
        for entry in module.imports
        if entry.name.partition(".")[0] in TESTS_OWN
    )


def test_the_brokers_sockets_are_in_the_files_beside_its_server() -> None:
    hold(
        f"{module.at(entry.line)}: imports zmq: leave that to server, connection_gate and publisher"
        for module in of("reqpool_broker")
        for entry in module.imports
        if forbidden(entry) == "zmq"
        if module.name not in names("reqpool_broker", "server connection_gate publisher")
    )


def forbidden(entry: Import) -> str | None:
    """Return what of FORBIDDEN_IN_CORES the import is."""
    found = (name for name in FORBIDDEN_IN_CORES.split() if f"{entry.name}.".startswith(f"{name}."))
    return next(found, None)


def cores(package: str) -> list[str]:
    patterns = names(package, CORES[package])
    shells = names(package, SHELLS.get(package, ""))
    found = [name for name in MODULES if any(fnmatchcase(name, pattern) for pattern in patterns)]
    gone = [name for name in sorted(patterns | shells) if not any(fnmatchcase(one, name) for one in MODULES)]
    hold(f"{HERE}: there is no {name}: correct CORES or SHELLS" for name in gone)
    return [name for name in found if name not in shells]


@pytest.mark.parametrize("package", PACKAGES)
def test_cores_reach_no_socket_thread_or_clock(package: str) -> None:
    assert package in CORES, f"{HERE}: list in CORES the modules of {package} that do no I/O"
    yet = {
        (core, what)
        for (who, what), text in REACHED_YET.items()
        if who == package
        for core in names(package, text)
    }
    found = {(core, what): way for core in cores(package) for what, way in reached(core).items()}
    hold(
        [
            f"{found[core, what]}: pass to {core} what it needs of {what}, or import from a file without it"
            for core, what in sorted(found.keys() - yet)
        ]
        + [
            needless(f"REACHED_YET of {package}", f"{what} of {core}")
            for core, what in sorted(yet - found.keys())
        ]
    )


def reached(core: str) -> dict[str, str]:
    """Map what a core reaches of FORBIDDEN_IN_CORES to a description of a shortest way there."""
    found: dict[str, str] = {}
    for end, way in ways(MODULES, core, type_only=False).items():
        for entry in MODULES[end].imports:
            what = None if entry.type_only else forbidden(entry)
            if what and what not in found and (end, what) not in HARMLESS:
                last = f"{MODULES[end].at(entry.line)} imports {entry.name}"
                found[what] = ", ".join([*described(way, type_only=False), last])
    return found


def test_imports_and_classes_are_found_wherever_they_are(tmp_path: Path) -> None:
    package = tmp_path / "ops" / "thing"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from . import one\n")
    (package / "one.py").write_text(
        dedent(
            """\
            import typing
            from ... import beyond

            if typing.TYPE_CHECKING:
                from thing.two import Two
            else:
                import time

            class Outer:
                class Inner:
                    def method(self):
                        from .three import NAME
            """
        )
    )
    (package / "two.py").write_text("import os\nfrom . import one\nfrom zmq import Context\nos.urandom(1)\n")
    (package / "three.py").write_text("from . import Two\n")
    modules = read(tmp_path)
    one, two = modules["thing.one"], modules["thing.two"]
    assert one.classes == (("Outer", 9), ("Inner", 10))
    assert one.escapes == (2,)
    assert [(entry.name, entry.line, entry.type_only) for entry in one.imports] == [
        ("typing", 1, False), ("thing.two", 5, True), ("time", 7, False), ("thing.three", 12, False),
    ]  # fmt: skip
    assert [forbidden(entry) for entry in two.imports] == [None, None, "zmq", "os.urandom"]
    assert set(imported(modules, one, type_only=False)) == {"thing.three"}
    assert set(ways(modules, "thing.one", type_only=False)) == {"thing.one", "thing.three", "thing"}
    assert cycles(modules) == [("thing", "thing.one", "thing.three", "thing.two")]
