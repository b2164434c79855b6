"""Where a cluster lives: folder, lock, sockets, and what may be bound."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from reqpool_ops import runtime
from reqpool_ops.runtime import CannotStart


@pytest.fixture
def short() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rp-") as folder:
        yield Path(folder)


@pytest.mark.parametrize(
    "url",
    [
        "tcp://0.0.0.0:5570", "tcp://*:5570", "tcp://192.0.2.1:5570", "tcp://[::]:5570", "tcp://eth0:5570",
        "tcp://example.com:5570",
    ],
)  # fmt: skip
def test_a_bind_beyond_loopback_is_refused(url: str) -> None:
    with pytest.raises(CannotStart, match="no authentication yet"):
        runtime.check_bind(url)


@pytest.mark.parametrize(
    "url",
    [
        "", "x", "tcp://", "tcp://127.0.0.1", "tcp://127.0.0.1:x", "tcp://127.0.0.1:65536", "tcp://:5570",
        "ipc://", "udp://127.0.0.1:1", "ipc://@abstract", "ipc:///" + "x" * 110,
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(CannotStart):
        runtime.check_bind(url)


@pytest.mark.parametrize(
    ("url", "plain"),
    [
        ("tcp://127.0.0.1:5570", "tcp://127.0.0.1:5570"),
        ("tcp://localhost:5570", "tcp://127.0.0.1:5570"),
        ("tcp://127.0.0.1:*", "tcp://127.0.0.1:0"),
        ("tcp://[::1]:5570", "tcp://[::1]:5570"),
        ("ipc:///run/x.sock", "ipc:///run/x.sock"),
        ("ipc://x.sock", f"ipc://{os.getcwd()}/x.sock"),
    ],
)
def test_an_address_gets_its_plain_form(url: str, plain: str) -> None:
    assert runtime.check_bind(url) == plain


def test_the_folder_is_made_for_this_user_alone(short: Path) -> None:
    runtime.make_folder(short / "reqpool")
    assert (short / "reqpool").stat().st_mode & 0o777 == 0o700
    runtime.make_folder(short / "reqpool")


def test_a_folder_open_to_others_is_refused(short: Path) -> None:
    (short / "reqpool").mkdir()
    (short / "reqpool").chmod(0o750)
    with pytest.raises(CannotStart, match=r"mode 0750.*chmod 700"):
        runtime.make_folder(short / "reqpool")


def test_a_folder_that_is_a_link_or_a_file_is_refused(short: Path) -> None:
    (short / "link").symlink_to(short)
    (short / "file").touch()
    for name in ("link", "file"):
        with pytest.raises(CannotStart):
            runtime.make_folder(short / name)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_is_refused(short: Path) -> None:
    (short / "reqpool").mkdir(mode=0o700)
    os.chown(short / "reqpool", 65534, 65534)
    with pytest.raises(CannotStart, match="belongs to user id 65534"):
        runtime.make_folder(short / "reqpool")


def test_the_default_url_follows_the_environment(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short))
    assert runtime.default_url() == f"ipc://{short}/reqpool/reqpool.sock"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short / "nowhere"))
    assert runtime.default_url() == f"ipc:///tmp/reqpool-{os.getuid()}/reqpool.sock"


def test_the_socket_of_a_dead_cluster_is_removed(short: Path) -> None:
    path = short / "pool.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    assert path.exists()
    runtime.check_free(f"ipc://{path}")
    assert not path.exists()


def test_the_socket_of_a_living_cluster_is_left_alone_and_its_pid_is_named(short: Path) -> None:
    path = short / "pool.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with pytest.raises(CannotStart, match=rf"already running at .* \(pid {os.getpid()}\)"):
            runtime.check_free(f"ipc://{path}")
    assert path.exists()


def test_a_file_that_is_no_socket_is_left_alone(short: Path) -> None:
    path = short / "pool.sock"
    path.write_text("precious")
    with pytest.raises(CannotStart, match="is no socket"):
        runtime.check_free(f"ipc://{path}")
    assert path.read_text() == "precious"


def test_a_port_in_use_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(CannotStart, match=f":{port}: the port is in use"):
            runtime.check_free(f"tcp://127.0.0.1:{port}")
    runtime.check_free(f"tcp://127.0.0.1:{port}")


def test_a_lock_is_held_once_and_tells_who_holds_it(short: Path) -> None:
    url = f"ipc://{short}/pool.sock"
    assert runtime.read_lock(url) is None
    lock = runtime.Lock(url, {"pid": 4711, "workers": 2})
    assert runtime.read_lock(url) == {"pid": 4711, "workers": 2}
    with pytest.raises(CannotStart, match=r"already running at .* \(pid 4711\)"):
        runtime.Lock(url, {})
    lock.close()
    assert runtime.read_lock(url) is None
    runtime.Lock(url, {}).close()


def test_the_lock_of_a_tcp_cluster_is_in_the_runtime_folder(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short))
    runtime.Lock("tcp://127.0.0.1:5570", {}).close()
    assert (short / "reqpool" / "tcp-127.0.0.1-5570.lock").exists()
