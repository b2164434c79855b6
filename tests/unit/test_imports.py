"""Who may import whom (docs: "How it is built"): read from the sources, nothing is run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

FOLDERS = {
    "reqpool_contract": ROOT / "client" / "reqpool_contract",
    "reqpool": ROOT / "client" / "reqpool",
    "reqpool_broker": ROOT / "broker" / "reqpool_broker",
    "reqpool_workers": ROOT / "workers" / "reqpool_workers",
    "reqpool_ops": ROOT / "ops" / "reqpool_ops",
}

MAY_IMPORT = {
    "reqpool_contract": {"reqpool_contract"},
    "reqpool": {"reqpool_contract", "reqpool"},
    "reqpool_broker": {"reqpool_contract", "reqpool", "reqpool_broker"},
    "reqpool_workers": {"reqpool_contract", "reqpool_workers"},
    "reqpool_ops": set(FOLDERS),
}

SANS_IO = {
    "reqpool_contract": {"wire.py", "groups.py", "checks.py", "errors.py", "payloads"},
    "reqpool": {"pending.py", "session.py", "outbox.py", "conversation.py"},
    "reqpool_broker": {path.name for path in FOLDERS["reqpool_broker"].glob("*.py")}
    - {"server.py", "doors.py", "results.py", "wakefulness.py", "__main__.py"},
    "reqpool_workers": {
        "protocols",
        "conversation.py",
        "grants.py",
        "leases.py",
        "ledger.py",
        "link.py",
        "outbox.py",
    },
    "reqpool_ops": {"reign.py"},
}
"""Cores: they know no socket, no thread and no clock."""

FORBIDDEN_IN_CORES = {
    "zmq",
    "select",
    "selectors",
    "threading",
    "time",
    "asyncio",
    "subprocess",
    "multiprocessing",
}


def imported(path: Path) -> Iterator[str]:
    """Name what a file imports absolutely, wherever in the file it does."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module


def sources(package: str) -> list[Path]:
    files = sorted(FOLDERS[package].rglob("*.py"))
    assert files, f"{package} has no sources: the test looks in the wrong folder"
    return files


@pytest.mark.parametrize("package", FOLDERS)
def test_packages_import_only_whom_they_may(package: str) -> None:
    others = set(FOLDERS) - MAY_IMPORT[package]
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in sources(package)
        for module in imported(path)
        if module.split(".")[0] in others
    ]
    assert not wrong


@pytest.mark.parametrize("package", FOLDERS)
def test_relative_imports_stay_in_their_package(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sources(package)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level > len(path.relative_to(FOLDERS[package]).parts)
    ]
    assert not wrong


def test_the_brokers_sockets_are_in_the_files_beside_its_server() -> None:
    with_zmq = {
        path.name
        for path in sources("reqpool_broker")
        if any(module.split(".")[0] == "zmq" for module in imported(path))
    }
    assert with_zmq <= {"server.py", "doors.py", "results.py"}


@pytest.mark.parametrize("package", SANS_IO)
def test_cores_know_no_socket_thread_or_clock(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in sources(package)
        if path.relative_to(FOLDERS[package]).parts[0] in SANS_IO[package]
        for module in imported(path)
        if module.split(".")[0] in FORBIDDEN_IN_CORES
    ]
    assert not wrong


def test_nothing_installed_imports_the_tests() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for package in FOLDERS
        for path in sources(package)
        for module in imported(path)
        if module.split(".")[0] in {"tests", "support", "conftest", "pytest", "hypothesis"}
    ]
    assert not wrong
