"""What an app asks for goes to a broker of its own user, or of root, and to nobody else."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import reqpool
from reqpool_contract import socket_owner
from support.plain import ask

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of another user")


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture
def listener(folder: Path) -> Iterator[Path]:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{folder}/pool.sock")
        listening.listen()
        yield folder / "pool.sock"


def as_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be somebody else than who made the files; not root, who owns what may be trusted."""
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY)


def refusal(url: str) -> str:
    """Ask with a long timeout; return what the refusal says."""
    with reqpool.Pool(url, timeout=600) as pool:
        with pytest.raises(reqpool.BrokerUnavailable) as caught:
            ask(pool).result(5)
        pool.close(drain=False)
    return str(caught.value)


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o1777])
def test_a_socket_in_a_folder_that_others_may_write_to_is_refused(listener: Path, mode: int) -> None:
    listener.parent.chmod(mode)
    text = refusal(f"ipc://{listener}")
    assert f"{listener.parent} is open to others (mode {mode:04o}); " in text
    assert ("chmod 700 it" in text) == (mode != 0o1777)


def test_such_a_folder_is_refused_before_there_is_a_socket(folder: Path) -> None:
    folder.chmod(0o1777)
    assert "use your own folder inside it" in refusal(f"ipc://{folder}/pool.sock")


def test_a_link_is_followed_to_the_folder_that_counts(listener: Path, folder: Path) -> None:
    listener.parent.chmod(0o777)
    (folder / "inner").mkdir(mode=0o700)
    (folder / "inner" / "link").symlink_to(listener)
    assert f"{listener.parent} is open" in refusal(f"ipc://{folder}/inner/link")


@needs_root
def test_a_folder_of_another_user_is_refused(listener: Path) -> None:
    os.chown(listener.parent, NOBODY, -1)
    text = refusal(f"ipc://{listener}")
    assert f"{listener.parent} belongs to user id {NOBODY} (mode 0700), not to you (0)" in text


@needs_root
def test_a_socket_of_another_user_is_refused(listener: Path) -> None:
    os.chown(listener, NOBODY, -1)
    assert f"{listener} belongs to user id {NOBODY}" in refusal(f"ipc://{listener}")


@needs_root
def test_a_listener_of_another_user_is_refused(folder: Path) -> None:
    path = folder / "pool.sock"
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(path))
        os.setresuid(-1, NOBODY, 0)
        listening.listen()
        os.setresuid(-1, 0, 0)
        os.write(write, b"x")
        signal.pause()
    try:
        os.read(read, 1)
        text = refusal(f"ipc://{path}")
        assert f"process {child} that listens at {path} has user id {NOBODY}, not yours (0)" in text
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.close(read)
        os.close(write)


@needs_root
def test_what_is_roots_may_be_used_by_anybody_who_gets_there(
    listener: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_another(monkeypatch)
    socket_owner.check(f"ipc://{listener}")


def test_links_that_lead_in_a_circle_are_refused(folder: Path) -> None:
    (folder / "pool.sock").symlink_to("other")
    (folder / "other").symlink_to("pool.sock")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        socket_owner.check(f"ipc://{folder}/pool.sock")


@pytest.mark.parametrize("path", ["nowhere/pool.sock", "pool.sock"])
def test_what_is_not_there_yet_is_waited_for(folder: Path, path: str) -> None:
    socket_owner.check(f"ipc://{folder}/{path}")


def test_a_socket_that_nobody_listens_at_is_waited_for(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(f"{folder}/pool.sock")
        socket_owner.check(f"ipc://{folder}/pool.sock")


def test_what_cannot_be_looked_at_says_so(folder: Path) -> None:
    (folder / "file").touch()
    assert "file is not a folder" in refusal(f"ipc://{folder}/file/pool.sock")


def test_an_abstract_socket_of_ours_may_be_used() -> None:
    name = f"reqpool-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"\0{name}")
        listening.listen()
        socket_owner.check(f"ipc://@{name}")
