"""``ops/start-cluster.sh`` and ``ops/test.sh`` as a newcomer meets them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import reqpool
from support.program import wait_stopped
from support.tcp_peer import Connection, TcpPeer, never_answers
from support.wait import wait_until

ROOT = Path(__file__).parents[2]


def is_installed() -> bool:
    stamp = ROOT / ".venv/.installed-server"
    digest = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    return stamp.exists() and stamp.read_text() == f"{ROOT} {digest}  -\n"


needs_venv = pytest.mark.skipif(not is_installed(), reason="needs the .venv that ops/test.sh makes")


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rp-") as short:
        yield Path(short)


def script(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / "ops" / name), *arguments],
        capture_output=True,
        text=True,
        timeout=90,
        cwd="/",
        env=os.environ | environment,
    )


def workers_of(supervisor_pid: int) -> list[psutil.Process]:
    children = psutil.Process(supervisor_pid).children()
    return [child for child in children if "reqpool_workers" in child.cmdline()]


@needs_venv
def test_start_status_stop(folder: Path) -> None:
    place = {"XDG_RUNTIME_DIR": str(folder)}
    assert script("start-cluster.sh", "status", **place).returncode == 3
    started = script("start-cluster.sh", "start", "--workers", "1", **place)
    pid = int((folder / "reqpool/cluster.pid").read_text())
    try:
        assert (started.returncode, f"running (pid {pid})" in started.stderr) == (0, True)
        processes = [psutil.Process(pid), *psutil.Process(pid).children()]
        assert len(workers_of(pid)) == 1
        assert script("start-cluster.sh", "status", **place).stdout.startswith("The pool is well.")
        running = f"start-cluster.sh: already running (pid {pid})"
        assert script("start-cluster.sh", **place).stderr == f"{running}\n"
        again = script("start-cluster.sh", "start", "--workers", "3", **place)
        assert again.returncode == 0
        assert again.stderr == f"{running}, so '--workers 3' has no effect: stop it first\n"
    finally:
        stopped = script("start-cluster.sh", "stop", **place)
    assert (stopped.returncode, "stopped" in stopped.stderr) == (0, True)
    assert not any(is_working(process) for process in processes)
    assert "not running" in script("start-cluster.sh", "stop", **place).stderr


@needs_venv
def test_restart_reload_scale(folder: Path) -> None:
    place = {"XDG_RUNTIME_DIR": str(folder)}
    config = folder / "reqpool.toml"
    config.write_text("")
    for command in (("reload",), ("scale", "2")):
        assert script("start-cluster.sh", *command, **place).returncode == 1
    relative = os.path.relpath(config, "/")  # script() runs it in /
    assert script("start-cluster.sh", "--workers", "1", "--config", relative, **place).returncode == 0
    try:
        config.write_text('[upstreams.names]\nurl = "dns://127.0.0.1:53"\n')
        reloaded = script("start-cluster.sh", "reload", **place)
        said = "start-cluster.sh: new configuration: added: names\n"
        assert (reloaded.returncode, reloaded.stderr) == (0, said)
        config.write_text("[upstreams.names]\nurl = 5\n")
        reloaded = script("start-cluster.sh", "reload", **place)
        assert (reloaded.returncode, reloaded.stderr.splitlines()) == (
            1,
            [
                f"{config}:2: upstreams.names.url: must be a quoted string",
                "start-cluster.sh: the configuration stays as it was",
            ],
        )
        refused = script("start-cluster.sh", "restart", **place)
        assert (refused.returncode, "nothing was stopped" in refused.stderr) == (1, True)
        assert f"{config}:2: upstreams.names.url" in refused.stderr
        assert script("start-cluster.sh", "status", **place).returncode == 0
        config.write_text("")
        pid = int((folder / "reqpool/cluster.pid").read_text())
        assert script("start-cluster.sh", "scale", "3", **place).returncode == 0
        wait_until(lambda: len(workers_of(pid)) == 3)
        before = {child.pid for child in psutil.Process(pid).children()}
        restarted = script("start-cluster.sh", "restart", **place)
        assert (restarted.returncode, "3 workers and the broker replaced" in restarted.stderr) == (0, True)
        assert int((folder / "reqpool/cluster.pid").read_text()) == pid
        after = {child.pid for child in psutil.Process(pid).children()}
        assert (len(workers_of(pid)), before & after) == (3, set())
        assert script("start-cluster.sh", "restart", "--workers", "1", **place).returncode == 0
        again = psutil.Process(int((folder / "reqpool/cluster.pid").read_text()))
        assert again.pid != pid
        assert again.cmdline()[-2:] == ["--workers", "1"]
    finally:
        stopped = script("start-cluster.sh", "stop", **place)
    assert stopped.returncode == 0


@needs_venv
def test_stop_reload_scale_and_status_install_nothing(folder: Path) -> None:
    """In a copy whose pyproject.toml has changed since, where no environment can be made or filled."""
    shutil.copytree(ROOT / "ops", folder / "ops", ignore=shutil.ignore_patterns("reqpool_ops"))
    (folder / "pyproject.toml").write_text("# changed\n")
    (folder / ".venv/bin").mkdir(parents=True)
    python = folder / ".venv/bin/python"
    python.write_text(f'#!/bin/sh\n[ "$2" != pip ] || exit 1\nexec {ROOT}/.venv/bin/python "$@"\n')
    python.chmod(0o755)
    (folder / "config.toml").write_text("")
    (folder / "run").mkdir()
    place = {"XDG_RUNTIME_DIR": str(folder / "run"), "PYTHON": "/bin/false"}
    config = ("--workers", "1", "--config", str(folder / "config.toml"))
    assert script("start-cluster.sh", "start", *config, XDG_RUNTIME_DIR=str(folder / "run")).returncode == 0
    copy = str(folder / "ops/start-cluster.sh")
    try:
        for command in (("status",), ("reload",), ("scale", "2"), ("stop",)):
            done = script(copy, *command, **place)
            assert (done.returncode, "install" in done.stderr) == (0, False), done.stderr
        shutil.rmtree(folder / ".venv")
        assert "not running" in script(copy, "stop", **place).stderr
        assert not (folder / ".venv").exists()
    finally:
        script("start-cluster.sh", "stop", XDG_RUNTIME_DIR=str(folder / "run"))


def waits_for_a_lock(process: subprocess.Popen[str]) -> bool:
    """Does a flock(1) of it wait for somebody else's lock?"""
    waiting = {int(line.split()[5]) for line in Path("/proc/locks").read_text().splitlines() if "->" in line}
    return any(child.pid in waiting for child in psutil.Process(process.pid).children())


@needs_venv
@pytest.mark.parametrize(("command", "runs_on"), [("stop", False), ("start", True)])
def test_a_cluster_that_stops_is_waited_for(folder: Path, command: str, runs_on: bool) -> None:
    place = {"XDG_RUNTIME_DIR": str(folder)}
    pid_file, log = folder / "reqpool/cluster.pid", folder / "reqpool/cluster.log"
    may_answer = threading.Event()

    def answers_late(connection: Connection) -> None:
        connection.read_until(b"\n")
        may_answer.wait(60)
        connection.send(b"done\n")

    def begin(command: str) -> subprocess.Popen[str]:
        words = [str(ROOT / "ops/start-cluster.sh"), command, *(["--workers", "1"] * (command == "start"))]
        return subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=os.environ | place)

    assert script("start-cluster.sh", "--workers", "1", **place).returncode == 0
    try:
        first = pid_file.read_text()
        with (
            TcpPeer(answers_late) as peer,
            reqpool.Pool(f"ipc://{folder}/reqpool/reqpool.sock", timeout=60) as pool,
        ):
            paid = pool.tcp(peer.address, b"pay\n", until=b"\n")
            peer.wait_accepted(1)
            with begin("stop") as stop:
                wait_until(lambda: "SIGTERM: stopping" in log.read_text())
                with begin(command) as second:
                    wait_until(lambda: second.poll() is not None or waits_for_a_lock(second), 30)
                    may_answer.set()
                    assert paid.result() == b"done\n"
                    assert (stop.wait(30), second.wait(30)) == (0, 0)
        assert "SIGTERM again" not in log.read_text()
        assert pid_file.exists() == runs_on
        assert not runs_on or pid_file.read_text() != first
    finally:
        script("start-cluster.sh", "stop", **place)


@needs_venv
@pytest.mark.parametrize("command", [("start",), ()])
def test_a_start_that_fails_says_why_and_nothing_else(folder: Path, command: tuple[str, ...]) -> None:
    (folder / "reqpool").mkdir(mode=0o700)
    (folder / "reqpool/cluster.log").write_text("an old story\n")
    done = script("start-cluster.sh", *command, "--workers", "x", XDG_RUNTIME_DIR=str(folder))
    assert done.returncode == 1
    assert "'x' is not a number of workers" in done.stderr
    assert "old story" not in done.stderr
    assert "/proc/" not in done.stderr
    assert not (folder / "reqpool/cluster.pid").exists()


@needs_venv
def test_a_pid_file_of_a_dead_cluster_is_no_obstacle(folder: Path) -> None:
    (folder / "reqpool").mkdir(mode=0o700)
    (folder / "reqpool/cluster.pid").write_text(f"{os.getpid()}\n")  # by now somebody else's
    done = script("start-cluster.sh", "stop", XDG_RUNTIME_DIR=str(folder))
    assert (done.returncode, "not running" in done.stderr) == (0, True)


@needs_venv
def test_the_demo_answers_everything_and_leaves_nothing(folder: Path) -> None:
    done = script("start-cluster.sh", "--demo", REQPOOL_TEST_RUN=folder.name)
    assert (done.returncode, done.stderr) == (0, "")
    *_, table = done.stdout.split("\n\n")
    head, *rows = table.splitlines()
    assert head.split()[:4] == ["kind", "sent", "done", "failed"]
    kinds = {"dns", "udp", "tcp", "http"}
    for kind, program in (("redis", "redis-server"), ("mysql", "mariadbd")):
        if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin"):
            kinds.add(kind)
        else:
            assert f"left out: {kind}: {program} is not installed" in done.stdout
    assert {row.split()[0] for row in rows} == kinds
    assert not [process for process in psutil.process_iter() if belongs(process, folder.name)]


@needs_venv
@pytest.mark.parametrize(("command", "runs_on"), [("stop", False), ("start", True), ("restart", True)])
def test_a_cluster_that_was_told_by_hand_to_stop_is_waited_for(
    folder: Path, command: str, runs_on: bool
) -> None:
    place = {"XDG_RUNTIME_DIR": str(folder)}
    pid_file, log = folder / "reqpool/cluster.pid", folder / "reqpool/cluster.log"
    assert script("start-cluster.sh", "--workers", "1", **place).returncode == 0
    try:
        first = psutil.Process(int(pid_file.read_text()))
        first.terminate()
        wait_until(lambda: "SIGTERM: stopping" in log.read_text())
        done = script("start-cluster.sh", command, **place)
        assert (done.returncode, "already running" in done.stderr) == (0, False)
        assert "SIGTERM again" not in log.read_text()
        assert not is_working(first)
        assert pid_file.exists() == runs_on
    finally:
        script("start-cluster.sh", "stop", **place)


@needs_venv
def test_a_suspended_cluster_is_stopped_in_order(folder: Path) -> None:
    place = {"XDG_RUNTIME_DIR": str(folder)}
    assert script("start-cluster.sh", "--workers", "1", **place).returncode == 0
    supervisor = psutil.Process(int((folder / "reqpool/cluster.pid").read_text()))
    supervisor.suspend()
    wait_stopped(supervisor.pid)
    stopped = script("start-cluster.sh", "stop", **place)
    assert (stopped.returncode, stopped.stderr) == (0, "start-cluster.sh: stopped\n")
    assert not is_working(supervisor)


@needs_venv
def test_a_reload_waits_for_a_cluster_that_is_starting(folder: Path) -> None:
    place = {"XDG_RUNTIME_DIR": str(folder)}
    config = folder / "reqpool.toml"
    config.write_text("")
    (folder / "reqpool").mkdir(mode=0o700)
    command = [str(ROOT / ".venv/bin/python"), "-P", "-m", "reqpool_ops", "up", "--config", str(config)]
    # As start-cluster.sh starts it, but it begins when it is told to.
    late = ["sh", "-c", 'read -r go; exec "$0" "$@"', *command, "--workers", "1"]
    with (
        open(folder / "reqpool/cluster.log", "w") as log,
        subprocess.Popen(
            late, stdin=subprocess.PIPE, stdout=log, stderr=log, text=True, env=os.environ | place
        ) as supervisor,
    ):
        (folder / "reqpool/cluster.pid").write_text(f"{supervisor.pid}\n")
        try:
            wait_until(lambda: "reqpool_ops" in psutil.Process(supervisor.pid).cmdline())
            with subprocess.Popen(
                [str(ROOT / "ops/start-cluster.sh"), "reload"],
                stderr=subprocess.PIPE,
                text=True,
                env=os.environ | place,
            ) as reload:
                wait_until(lambda: reload.poll() is not None or runs(reload, "sleep"), what="it waits")
                assert supervisor.stdin is not None
                print("go", file=supervisor.stdin, flush=True)
                _, said = reload.communicate(timeout=30)
        finally:
            script("start-cluster.sh", "stop", **place)
            supervisor.kill()
    assert (reload.returncode, said) == (0, "start-cluster.sh: new configuration: nothing changed\n")


def runs(process: subprocess.Popen[str], name: str) -> bool:
    """Does it run a program of this name?"""
    with contextlib.suppress(psutil.NoSuchProcess):  # it has ended meanwhile
        return any(child.name() == name for child in psutil.Process(process.pid).children())
    return False


@needs_venv
def test_a_cluster_that_does_not_end_in_time_is_killed(folder: Path) -> None:
    place = {"XDG_RUNTIME_DIR": str(folder)}
    # A copy of the script with less patience; to stop, it needs nothing else.
    shutil.copytree(ROOT / "ops", folder / "ops", ignore=shutil.ignore_patterns("reqpool_ops"))
    copy = folder / "ops/start-cluster.sh"
    patient = copy.read_text()
    copy.write_text(re.sub(r"^stop_s=\d+", "stop_s=1", patient, count=1, flags=re.MULTILINE))
    assert copy.read_text() != patient
    assert script("start-cluster.sh", "--workers", "1", **place).returncode == 0
    supervisor = psutil.Process(int((folder / "reqpool/cluster.pid").read_text()))
    processes = [supervisor, *supervisor.children()]
    try:
        with (
            TcpPeer(never_answers) as peer,
            reqpool.Pool(f"ipc://{folder}/reqpool/reqpool.sock", timeout=60) as pool,
        ):
            pool.tcp(peer.address, b"pay\n", until=b"\n")  # a cluster that stops serves on for that
            peer.wait_accepted(1)
            stopped = script(str(copy), "stop", **place)
            pool.close(drain=False)
        assert (stopped.returncode, stopped.stderr.splitlines()) == (
            0,
            [
                f"start-cluster.sh: pid {supervisor.pid} does not stop; killing it",
                "start-cluster.sh: stopped",
            ],
        )
        assert not (folder / "reqpool/cluster.pid").exists()
        wait_until(lambda: not any(is_working(process) for process in processes), 20.0)
    finally:
        script("start-cluster.sh", "stop", **place)


@needs_venv
def test_ctrl_c_ends_the_demo_and_all_it_started() -> None:
    with subprocess.Popen(
        # A shell without job control has its background jobs ignore SIGINT, and they hand that on.
        ["env", "--default-signal=INT", str(ROOT / "ops/start-cluster.sh"), "--demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as demo:
        assert demo.stdout is not None
        assert demo.stdout.readline().startswith("pool: ")
        children = psutil.Process(demo.pid).children(recursive=True)
        demo.send_signal(signal.SIGINT)
        _, said = demo.communicate(timeout=30)
    assert (demo.returncode, said) == (130, "\nstopped\n")
    wait_until(lambda: not any(child.is_running() for child in children))


def is_working(process: psutil.Process) -> bool:
    """Does it run? One that has ended may stay a zombie until init looks at it."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def belongs(process: psutil.Process, run: str) -> bool:
    """Was it started, by whomever, in the environment of this run?"""
    try:
        return process.environ().get("REQPOOL_TEST_RUN") == run
    except psutil.Error:
        return False


@pytest.mark.parametrize("arguments", [("nonsense",), ("--demo", "x"), ("stop", "now"), ("scale",)])
@needs_venv
def test_wrong_usage_is_2(arguments: tuple[str, ...]) -> None:
    done = script("start-cluster.sh", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ops/start-cluster.sh")


@pytest.mark.parametrize(
    ("python", "said"),
    [
        ('[ "$2" = "import ensurepip, venv" ] && exit 1; exit 0', "apt-get install python3-venv"),
        ('[ "$1" = -V ] && echo Python 3.9.2; exit 1', "Python >= 3.11 is needed"),
    ],
    ids=["without venv", "too old"],
)
def test_a_python_that_will_not_do_is_said(folder: Path, python: str, said: str) -> None:
    shutil.copytree(ROOT / "ops", folder / "ops", ignore=shutil.ignore_patterns("reqpool_ops"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "python").write_text(f"#!/bin/sh\n{python}\n")
    (folder / "python").chmod(0o755)
    done = subprocess.run(
        [folder / "ops/start-cluster.sh", "--demo"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHON": str(folder / "python")},
    )
    assert done.returncode == 1
    assert said in done.stderr
    assert not (folder / ".venv").exists()
