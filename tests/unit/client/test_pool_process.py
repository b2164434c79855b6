"""A pool and the process it is in: fork, exit, gevent, a cluster of its own."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import reqpool
from reqpool.embedded import MOST_FAILURES, Embedded
from support.fake_broker import FakeBroker
from support.plain import ask
from support.wait import wait_until


def test_making_a_pool_starts_nothing() -> None:
    before = threading.active_count(), len(os.listdir("/proc/self/fd"))
    pool = reqpool.Pool()
    assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == before
    assert pool.stats().state == "unused"


def run_script(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    prelude = "import os, sys, time, threading, reqpool, signal\npool = reqpool.Pool(sys.argv[1])\n"
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", prelude + script, *arguments],
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip


FORK = """
def ask(data):
    return pool.udp("127.0.0.1:9", data, timeout=10)
assert ask(b"one").result() == b"one"
held = ask(b"hold")
pid = os.fork()
if pid == 0:
    signal.alarm(10)
    try:
        held.result()
    except reqpool.ClusterError as error:
        assert "parent" in str(error), error
    assert ask(b"child").result() == b"child"
    pool.close()
    os._exit(0)
_, status = os.waitpid(pid, 0)
assert status == 0, status
assert not held.done()
assert ask(b"two").result() == b"two"
held.cancel()
pool.close()
print("fine")
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_futures_in_flight_at_a_fork_belong_to_the_parent_and_the_child_has_its_own_session(
    broker: FakeBroker,
) -> None:
    broker.answer = lambda seq, payload: None if payload == b"hold" else (0, payload)
    done = run_script("import warnings; warnings.simplefilter('ignore')\n" + FORK, broker.url)
    assert (done.stdout, done.stderr) == ("fine\n", "")


FORK_WHILE_WAITING = """
def ask(data):
    return pool.udp("127.0.0.1:9", data, timeout=20)
for _ in range(100):
    ask(b"one").result()  # by now the thread that waits turns the pool's loop itself
children = []
def fork(*_):
    children.append(os.fork())
    if not children[-1]:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(10)
    elif len(children) == 8:
        signal.setitimer(signal.ITIMER_REAL, 0)
        held.cancel()
signal.signal(signal.SIGALRM, fork)
held = ask(b"hold")
signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
try:
    held.result()
except Exception as error:
    if not children[-1]:
        os._exit(0 if "parent" in str(error) else 1)
print([os.waitpid(child, 0)[1] for child in children])
pool.close()
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_signal_handler_that_forks_while_its_thread_waits_leaves_no_child_waiting(
    broker: FakeBroker,
) -> None:
    broker.answer = lambda seq, payload: None if payload == b"hold" else (0, payload)
    done = run_script("import warnings; warnings.simplefilter('ignore')\n" + FORK_WHILE_WAITING, broker.url)
    assert (done.stdout, done.stderr) == (f"{[0] * 8}\n", "")


FORK_AMID_A_TURN = """
from reqpool.client_conversation import ClientConversation
def ask(data):
    return pool.udp("127.0.0.1:9", data, timeout=20)
for _ in range(100):
    ask(b"one").result()
take, children = ClientConversation.take, []
def forking(conversation, messages, now_s):
    # As a handler may at any moment; at this one a message is about to be read.
    if not children and threading.current_thread() is threading.main_thread():
        children.append(os.fork())
        signal.alarm(0 if children[0] else 10)
        if children[0]:
            held.cancel()
    take(conversation, messages, now_s)
held = ask(b"hold")
ClientConversation.take = forking
try:
    held.result()
except Exception as error:
    if not children[0]:
        os._exit(0 if "parent" in str(error) else 1)
print(os.waitpid(children[0], 0)[1])
pool.close()
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_amid_a_turn_leaves_the_sockets_to_the_parent(broker: FakeBroker) -> None:
    broker.answer = lambda seq, payload: None if payload == b"hold" else (0, payload)
    done = run_script("import warnings; warnings.simplefilter('ignore')\n" + FORK_AMID_A_TURN, broker.url)
    assert (done.stdout, done.stderr) == ("0\n", "")


UNSENT = """
future = pool.udp("127.0.0.1:9", b"x", timeout=10)
pid = os.fork()
if pid == 0:
    signal.alarm(10)
    error = future.exception()
    os._exit(0 if isinstance(error, reqpool.ClusterError) and error.sent is None else 1)
_, status = os.waitpid(pid, 0)
future.cancel()
print(status, future.cancelled())
"""


def test_what_the_parent_may_yet_send_is_not_called_unsent_in_a_forked_child() -> None:
    done = run_script("import warnings; warnings.simplefilter('ignore')\n" + UNSENT, "tcp://127.0.0.1:1")
    assert (done.stdout, done.stderr) == ("0 True\n", "")


SHORT_OF_FDS = """
import resource
from reqpool import kinds
kinds.find("udp")  # loads it
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
held = []
while True:
    try: held.append(os.dup(0))
    except OSError: break
for _ in range(int(sys.argv[2])): os.close(held.pop())
print(repr(pool.udp("127.0.0.1:9", b"x", timeout=0.3).exception()))
for fd in held: os.close(fd)
print(pool.udp("127.0.0.1:9", b"y", timeout=20).result())
pool.close()
"""


@pytest.mark.parametrize("left", [4, 6, 9, 12])  # the session's loop takes three before it dials
def test_a_process_without_file_descriptors_is_told_so_and_lives(broker: FakeBroker, left: int) -> None:
    broker.answer = lambda seq, payload: (0, payload)
    done = run_script(SHORT_OF_FDS, broker.url, str(left))
    assert done.returncode == 0, done.stderr
    told, then = done.stdout.splitlines()
    assert told.startswith("RequestTimeout(")
    assert "fewer than 16 file descriptors left: RLIMIT_NOFILE is 128, and `ulimit -n` can raise it" in told
    assert "running there?" not in told
    assert then == "b'y'"


NO_FDS = """
import importlib.metadata, resource
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
def use_up(left):
    held = []
    while True:
        try: held.append(os.dup(0))
        except OSError: break
    for _ in range(left): os.close(held.pop())
    return held
def ask():
    try: return pool.submit(kind, "127.0.0.1:9", b"x", timeout=20).result()
    except reqpool.PoolError as error: return repr(error)
kind = sys.argv[3]
if int(sys.argv[4]): reqpool.kinds.find(kind)
held = use_up(int(sys.argv[2]))
if not int(sys.argv[4]): importlib.metadata.entry_points(group="reqpool.kinds")  # finds none
print(ask())
for fd in held: os.close(fd)
print(ask())
pool.close()
"""


@pytest.mark.parametrize(("left", "loaded"), [(0, 0), (12, 0), (0, 1), (1, 1)])
def test_a_first_request_without_file_descriptors_is_refused_and_the_next_one_goes(
    broker: FakeBroker, left: int, loaded: int
) -> None:
    broker.answer = lambda seq, payload: (0, payload)
    done = run_script(NO_FDS, broker.url, str(left), "udp", str(loaded))
    assert done.returncode == 0, done.stderr
    refused, then = done.stdout.splitlines()
    assert refused.startswith("Overloaded("), refused
    assert "file descriptors left: RLIMIT_NOFILE is 64, and `ulimit -n` can raise it to" in refused
    assert then == "b'x'"


HOLD = "pool.udp('127.0.0.1:9', b'hold', timeout=60, callback=print)"
HELD = HOLD + "\nwhile pool.stats().batches_out == 0: time.sleep(0.01)"
FLOOD = "for _ in range(5000): pool.udp('127.0.0.1:9', b'x', callback=lambda f: None)"
STUCK = "pool.udp('127.0.0.1:9', b'x', callback=lambda f: time.sleep(60)).result()"
DROPPED = "pool.udp('127.0.0.1:9', b'hold', timeout=60)\ndel pool"
HANDLER_FAILS = (
    HOLD
    + """
import logging
class Handler(logging.Handler):
    def emit(self, record): raise OSError
logging.getLogger("reqpool").addHandler(Handler())
"""
)
NOBODY = "tcp://127.0.0.1:1"


def exits(broker: FakeBroker, script: str, alive: bool) -> str:
    """Run a script that ends with requests in flight, and return what it says of them."""
    broker.answer = lambda seq, payload: None if payload == b"hold" else (0, payload)
    began_s = time.monotonic()
    done = run_script(script, broker.url if alive else NOBODY)
    assert (done.returncode, done.stdout) == (0, "")
    assert time.monotonic() - began_s < 8
    return done.stderr


@pytest.mark.parametrize(
    ("script", "alive", "counts"),
    [
        (HOLD, False, "1, of these never sent: 1"),
        (HELD, True, "1, of these never sent: 0"),
        (FLOOD, False, "5000, of these never sent: 5000"),
        (DROPPED, False, "1, of these never sent: 1"),
        (HOLD + "\nHOLD = pool.udp('127.0.0.1:9', b'x'); HOLD.cancel()", False, "1, of these never sent: 1"),
    ],
)
def test_exit_with_requests_in_flight_is_one_line_that_says_what_is_lost(
    broker: FakeBroker, script: str, alive: bool, counts: str
) -> None:
    said = exits(broker, script, alive)
    assert said.count("\n") == 1
    assert f"requests pending: {counts}" in said
    assert "pool.close()" in said
    assert (broker.url if alive else NOBODY) in said


@pytest.mark.parametrize(
    ("script", "alive"),
    [
        (STUCK, True),
        ("pool.udp('127.0.0.1:9', b'x'); pool.close(drain=False)", False),
        ("pool.udp('127.0.0.1:9', b'x'); pool.close(timeout=0.01)", False),
        ("pool.udp('127.0.0.1:9', b'x').result()", True),
        ("pool.udp('127.0.0.1:9', b'x')\nwhile pool.stats().pending: time.sleep(0.01)\ndel pool", True),
        ("pool.udp('127.0.0.1:9', b'x').cancel()", False),
        (HANDLER_FAILS, False),
        ("", False),
    ],
)
def test_exit_says_nothing_where_nothing_is_lost_by_it(broker: FakeBroker, script: str, alive: bool) -> None:
    assert exits(broker, script, alive) == ""


def test_exit_says_how_many_callbacks_did_not_run(broker: FakeBroker) -> None:
    script = """
begun = threading.Event()
def callback(future): begun.set(); time.sleep(60)
for _ in range(3): pool.udp('127.0.0.1:9', b'x', callback=callback)
begun.wait()
while pool.stats().pending: time.sleep(0.01)
"""
    said = exits(broker, script, True)
    assert said.count("\n") == 1
    assert "requests pending: 0" in said
    assert "callbacks did not run: 2" in said


def test_exit_amid_answers_neither_hangs_nor_makes_a_traceback(broker: FakeBroker) -> None:
    assert "Traceback" not in exits(broker, FLOOD, True)


def test_exit_in_a_forked_child_says_only_what_that_child_has_lost() -> None:
    script = """
import warnings; warnings.simplefilter("ignore")
parents = pool.udp("127.0.0.1:9", b"x", timeout=60)
if os.fork():
    os.wait()
    parents.cancel()
else:
    [pool.udp("127.0.0.1:9", b"x", timeout=60) for _ in range(2)]
"""
    done = run_script(script, NOBODY)
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1
    assert "pending: 2, of these never sent: 2" in done.stderr


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_exit_of_a_process_of_multiprocessing_says_what_is_lost(method: str, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(
        f"""
import multiprocessing, reqpool
def work():
    reqpool.Pool("{NOBODY}").udp("127.0.0.1:9", b"x", timeout=60)
if __name__ == "__main__":
    process = multiprocessing.get_context("{method}").Process(target=work)
    process.start()
    process.join()
    raise SystemExit(process.exitcode)
"""
    )
    done = subprocess.run(
        [sys.executable, str(tmp_path / "main.py")], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr.count("\n")) == (0, 1)
    assert "pending: 1, of these never sent: 1" in done.stderr


def test_exit_of_an_embedded_pools_owner_says_what_is_lost(tmp_path: Path) -> None:
    sleeper = tmp_path / "sleeper"
    sleeper.write_text("#!/bin/sh\nexec sleep 60\n")
    sleeper.chmod(0o755)
    script = f"""
import os, sys; os.environ.pop("REQPOOL_URL", None)
import reqpool; python, sys.executable = sys.executable, {str(sleeper)!r}
pool = reqpool.Pool(); pool.udp("127.0.0.1:9", b"x", timeout=60)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1
    assert "pending: 1, of these never sent: 1" in done.stderr


def test_gevents_patches_get_a_clear_error() -> None:
    pytest.importorskip("gevent")
    script = (
        "from gevent import monkey; monkey.patch_all()\nimport reqpool\n"
        "try: reqpool.Pool('tcp://127.0.0.1:1')\nexcept reqpool.UsageError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False
    )
    assert "patch_all(thread=False" in done.stdout, done.stderr


def test_an_embedded_pool_without_the_server_extra_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("REQPOOL_URL", raising=False)
    monkeypatch.setattr("reqpool.embedded.find_spec", lambda name: None if name == "psutil" else object())
    with reqpool.Pool() as pool, pytest.raises(reqpool.UsageError, match=r"reqpool\[server\]"):
        ask(pool)


def test_an_embedded_pool_in_a_folder_too_deep_for_a_socket_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.delenv("REQPOOL_URL", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with reqpool.Pool() as pool, pytest.raises(reqpool.UsageError, match="TMPDIR"):
        ask(pool)
    assert not list(deep.iterdir())


def test_an_embedded_cluster_that_dies_at_once_is_said_with_its_exit_status(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("REQPOOL_URL", raising=False)
    monkeypatch.setattr("reqpool.embedded.sys.executable", "/bin/false")
    with reqpool.Pool() as pool, pytest.raises(reqpool.BrokerUnavailable, match="exit status 1"):
        ask(pool, timeout=30).result(5)


def test_an_embedded_cluster_is_stopped_and_its_folder_removed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sleeper = tmp_path / "sleeper"
    sleeper.write_text("#!/bin/sh\nexec sleep 60\n")
    sleeper.chmod(0o755)
    monkeypatch.setattr("reqpool.embedded.sys.executable", str(sleeper))
    embedded = Embedded(1)
    folder = embedded.url.removeprefix("ipc://").removesuffix("/intake")
    assert os.stat(folder).st_mode & 0o777 == 0o700
    assert embedded.exit_text() is None
    embedded.stop()
    embedded.stop()
    assert not os.path.exists(folder)
    assert "reqpool-embedded" not in {thread.name for thread in threading.enumerate()}


def embedded_over(
    script: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, delay_s: float = 0.01
) -> tuple[Embedded, Path]:
    """An embedded cluster that is only this shell script, and a file to which each life adds a line."""
    lives = tmp_path / "lives"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\necho life >>{lives}\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr("reqpool.embedded.sys.executable", str(program))
    monkeypatch.setattr("reqpool.embedded.FIRST_DELAY_S", delay_s)
    return Embedded(1), lives


def count_lives(lives: Path) -> int:
    return lives.read_text().count("life") if lives.exists() else 0


@pytest.mark.parametrize(
    ("script", "how"),
    [("kill -9 $$", "by SIGKILL"), ("kill -40 $$", "by signal 40"), ("exit 0", "with exit status 0")],
)
def test_an_embedded_cluster_that_ends_again_and_again_is_given_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, how: str
) -> None:
    embedded, lives = embedded_over(script, monkeypatch, tmp_path)
    text = wait_until(embedded.exit_text)
    assert text is not None
    assert text.endswith(how)
    assert count_lives(lives) == MOST_FAILURES + 1
    embedded.stop()


def test_an_embedded_cluster_that_refuses_to_start_is_not_asked_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    embedded, lives = embedded_over("exit 1", monkeypatch, tmp_path)
    assert wait_until(embedded.exit_text) == "the embedded cluster ended with exit status 1"
    assert count_lives(lives) == 1
    embedded.stop()


def test_an_embedded_cluster_that_was_killed_is_started_again_in_its_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    once = (
        f"[ $(wc -l <{tmp_path}/lives) = 1 ] && rmdir $(dirname ${{6#ipc://}}) && kill -9 $$; exec sleep 60"
    )
    embedded, lives = embedded_over(once, monkeypatch, tmp_path)
    folder = Path(embedded.url.removeprefix("ipc://")).parent
    wait_until(lambda: count_lives(lives) == 2 and folder.is_dir())
    assert embedded.exit_text() is None
    assert folder.stat().st_mode & 0o777 == 0o700
    embedded.stop()
    assert not folder.exists()


def test_an_embedded_cluster_that_cannot_be_started_for_a_shortage_is_started_when_that_is_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    once = f"[ $(wc -l <{tmp_path}/lives) = 1 ] && kill -9 $$; exec sleep 60"
    launch = Embedded._launch
    launches: list[None] = []

    def short(self: Embedded) -> subprocess.Popen[bytes]:
        launches.append(None)
        if 1 < len(launches) <= 2 * MOST_FAILURES:
            raise OSError(errno.EMFILE, "Too many open files")
        return launch(self)

    monkeypatch.setattr(Embedded, "_launch", short)
    embedded, lives = embedded_over(once, monkeypatch, tmp_path, delay_s=0.001)
    wait_until(lambda: count_lives(lives) == 2)
    assert embedded.exit_text() is None
    embedded.stop()


def test_an_embedded_cluster_is_not_started_again_while_it_is_being_stopped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    embedded, lives = embedded_over("kill -9 $$", monkeypatch, tmp_path, delay_s=60.0)
    wait_until(lambda: count_lives(lives) == 1)
    embedded.stop()
    assert count_lives(lives) == 1
    assert "reqpool-embedded" not in {thread.name for thread in threading.enumerate()}
