"""Where a cluster lives: folder, lock, sockets, and what may be bound."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from reqpool_broker.results_placement import SESSIONS_PER_SOCKET
from reqpool_broker.session_lifecycle import MAX_SESSIONS
from reqpool_ops import runtime
from reqpool_ops.runtime import CannotStart
from support.ports import three_free_ports


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
        "ipc://", "udp://127.0.0.1:1", "ipc://@abstract",
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
    ],
)
def test_an_address_gets_its_plain_form(url: str, plain: str) -> None:
    assert runtime.check_bind(url) == plain


def test_a_path_gets_its_plain_form(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(short)
    assert runtime.check_bind("ipc://x.sock") == f"ipc://{short}/x.sock"
    assert runtime.check_bind(f"ipc://{short}/./x.sock") == f"ipc://{short}/x.sock"


def test_a_path_has_room_for_the_longest_of_the_three_sockets(short: Path) -> None:
    room = 107 - len(f"{short}/.results")
    assert runtime.check_bind(f"ipc://{short}/{'x' * room}")
    with pytest.raises(CannotStart, match=r"xx\.(results|workers) .* at most 107"):
        runtime.check_bind(f"ipc://{short}/{'x' * (room + 1)}")


@pytest.mark.parametrize("port", ["65534", "65535"])
def test_a_port_without_two_more_above_it_is_refused(port: str) -> None:
    assert runtime.check_bind("tcp://127.0.0.1:65533") == "tcp://127.0.0.1:65533"
    with pytest.raises(CannotStart, match=r"the two ports above it.*65533 at most"):
        runtime.check_bind(f"tcp://127.0.0.1:{port}")


def test_an_explicit_path_in_a_folder_open_to_others_is_refused(short: Path) -> None:
    folder = short / "shop"
    folder.mkdir()
    folder.chmod(0o755)
    with pytest.raises(CannotStart, match=rf"{folder} is open to others \(mode 0755\); chmod 700 it"):
        runtime.check_bind(f"ipc://{folder}/x.sock")
    (short / "link").symlink_to(folder)
    with pytest.raises(CannotStart, match=f"{folder} is open to others"):
        runtime.check_bind(f"ipc://{short}/link/x.sock")
    folder.chmod(0o700)
    assert runtime.check_bind(f"ipc://{short}/link/x.sock") == f"ipc://{short}/link/x.sock"


def test_an_explicit_path_in_a_folder_that_is_not_there_is_refused(short: Path) -> None:
    with pytest.raises(CannotStart, match=f"{short}/nowhere: No such file"):
        runtime.check_bind(f"ipc://{short}/nowhere/x.sock")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_an_explicit_path_in_a_folder_of_somebody_else_is_refused(short: Path) -> None:
    (short / "theirs").mkdir(mode=0o700)
    os.chown(short / "theirs", 65534, 65534)
    with pytest.raises(CannotStart, match="belongs to user id 65534"):
        runtime.check_bind(f"ipc://{short}/theirs/x.sock")


@pytest.mark.parametrize("name", ["pool.sock", "pool.sock.results", "pool.sock.workers"])
def test_each_of_the_three_sockets_is_looked_at_before_any_is_removed(short: Path, name: str) -> None:
    url = f"ipc://{short}/pool.sock"
    for stale in runtime.socket_paths(url):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(stale))
    (short / name).unlink()
    (short / name).write_text("precious")
    with pytest.raises(CannotStart, match=f"{name} exists and is not a socket"):
        runtime.check_free(url)
    assert (short / name).read_text() == "precious"
    assert len(list(short.iterdir())) == 3
    (short / name).unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(short / name))
        listener.listen()
        with pytest.raises(CannotStart, match=rf"already running at .*{name} \(pid {os.getpid()}\)"):
            runtime.check_free(url)
    runtime.check_free(url)
    assert list(short.iterdir()) == []


def test_only_sockets_are_removed(short: Path) -> None:
    url = f"ipc://{short}/pool.sock"
    (short / "pool.sock.results").write_text("precious")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(short / "pool.sock"))
    runtime.remove_sockets(url)
    assert [path.name for path in short.iterdir()] == ["pool.sock.results"]


def test_further_results_sockets_of_a_dead_broker_are_removed_and_nothing_else(short: Path) -> None:
    url = f"ipc://{short}/pool[1]"
    dead = [f"pool[1].res{number}" for number in (1, 9, 10, 156)]
    others = ["pool[1].res", "pool[1].res1x", "pool1.res1", "pool[1].result1"]
    for name in (*dead, *others):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(short / name))
    (short / "pool[1].res2").write_text("precious")
    with socket.socket(socket.AF_UNIX) as living:  # another cluster's, which chose this name
        living.bind(str(short / "pool[1].res3"))
        living.listen()
        runtime.check_free(url)
        left = {path.name for path in short.iterdir()}
    assert left == {*others, "pool[1].res2", "pool[1].res3"}


def test_paths_of_further_results_sockets_are_no_longer_than_the_first_ones(short: Path) -> None:
    longest = max(map(len, runtime.SUFFIXES))
    assert len(f".res{MAX_SESSIONS // SESSIONS_PER_SOCKET}") < longest


def test_a_lock_file_that_is_none_is_left_alone(short: Path) -> None:
    (short / "pool.sock.lock").write_text("precious")
    with pytest.raises(CannotStart, match=r"pool\.sock\.lock exists and is not a lock file"):
        runtime.Lock(f"ipc://{short}/pool.sock", 4711, 2)
    assert (short / "pool.sock.lock").read_text() == "precious"


def test_the_lock_of_a_killed_cluster_is_no_obstacle(short: Path) -> None:
    (short / "pool.sock.lock").write_text('{"pid": 4711, "workers": 12}')
    lock = runtime.Lock(f"ipc://{short}/pool.sock", 4712, 2)
    assert runtime.read_lock(f"ipc://{short}/pool.sock") == {"pid": 4712, "workers": 2}
    lock.close()


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
    with pytest.raises(CannotStart, match="is not a socket"):
        runtime.check_free(f"ipc://{path}")
    assert path.read_text() == "precious"


@pytest.mark.parametrize("offset", [0, 1, 2])
def test_a_port_in_use_is_said_of_each_of_the_three(offset: int) -> None:
    first = three_free_ports()
    url = f"tcp://127.0.0.1:{first}"
    with (
        socket.create_server(("127.0.0.1", first + offset)),
        pytest.raises(CannotStart, match=rf"{url}: port {first + offset} is in use"),
    ):
        runtime.check_free(url)
    runtime.check_free(url)


def test_a_lock_is_held_once_and_tells_who_holds_it(short: Path) -> None:
    url = f"ipc://{short}/pool.sock"
    assert runtime.read_lock(url) is None
    lock = runtime.Lock(url, 4711, 2)
    assert runtime.read_lock(url) == {"pid": 4711, "workers": 2}
    with pytest.raises(CannotStart, match=r"already running at .* \(pid 4711\)"):
        runtime.Lock(url, 4712, 2)
    lock.close()
    assert runtime.read_lock(url) is None
    runtime.Lock(url, 4712, 2).close()


@pytest.mark.parametrize("scheme", ["ipc", "tcp"])
def test_who_starts_while_another_stops_waits_for_its_end(
    short: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short))
    url = {"ipc": f"ipc://{short}/pool.sock", "tcp": "tcp://127.0.0.1:5570"}[scheme]
    stopping = runtime.Lock(url, 4711, 2)
    stopping.note(stopping=True)
    looks = []

    def sleep(span_s: float) -> None:
        looks.append(span_s)
        if len(looks) == 20:
            stopping.close()

    monkeypatch.setattr("time.sleep", sleep)
    runtime.Lock(url, 4712, 2).close()
    assert len(looks) >= 20


def test_who_waits_for_one_that_does_not_end_says_so(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"ipc://{short}/pool.sock"
    lock = runtime.Lock(url, 4711, 2)
    lock.note(stopping=True)
    monkeypatch.setattr("reqpool_ops.runtime.STOP_ENDS_S", 0.0)
    with pytest.raises(CannotStart, match=r"still stopping at ipc://.* \(pid 4711\)"):
        runtime.Lock(url, 4712, 2)
    lock.close()


def test_the_lock_of_a_tcp_cluster_is_in_the_runtime_folder(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short))
    runtime.Lock("tcp://127.0.0.1:5570", 4711, 2).close()
    assert (short / "reqpool" / "tcp-127.0.0.1-5570.lock").exists()
