"""The supervisor over children that fail: scripts stand in for broker and workers."""

from __future__ import annotations

import concurrent.futures
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from reqpool_ops import runtime
from support.wait import wait_until

BROKER = """
import json, os, sys, time, zmq
from reqpool_contract import wire
line = sys.stdin.readline()
os.write(2, b"line " + line.encode())
socket = zmq.Context().socket(zmq.ROUTER)
url = sys.argv[sys.argv.index("--bind") + 1]
socket.bind(url)
print(json.dumps({"intake": url, "results": url, "workers": url, "pid": os.getpid(), "epoch": 1}), flush=True)
parent = os.pidfd_open(int(sys.argv[sys.argv.index("--parent-pid") + 1]))
poller = zmq.Poller()
poller.register(socket, zmq.POLLIN)
poller.register(parent, zmq.POLLIN)
live = set(json.loads(line)["workers"])
while parent not in dict(poller.poll()):
    route, head = socket.recv_multipart()
    os.write(2, b"head " + head.hex().encode() + bytes([10]))  # in one piece, between the others' lines
    if head[1] == wire.Verb.STARTED:
        live.add(head[4:20].hex())
    if head[1] == wire.Verb.STATUS:
        workers = [{"id": id_, "state": "live"} for id_ in sorted(live)]
        report = {"epoch": 1, "workers": workers, **wire.unpack(head)[1]}
        socket.send_multipart([route, wire.encode(wire.Verb.STATUS, report)])
"""
SLEEP = "import os, select, sys; select.select([os.pidfd_open(int(sys.argv[-1]))], [], [])"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True);" + SLEEP

ENDS_IN_ORDER = """
import os, select, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("ready", flush=True)
select.select([os.pidfd_open(int(sys.argv[-1]))], [], [])
"""

RUN = """
import logging, sys
import reqpool_ops.broker_process, reqpool_ops.rolling
from reqpool_ops.runtime import CannotStart
from reqpool_ops.supervisor import ClusterPlan, Supervisor
logging.basicConfig(level=logging.INFO)
reqpool_ops.rolling.COME_UP_S = 6.0
reqpool_ops.broker_process.HUNG_S = 6.0
reqpool_ops.broker_process.STAND_BY_AFTER_S = float(sys.argv[4])
reqpool_ops.broker_process.STAND_BY_AGAIN_S = 0.1

try:
    plan = ClusterPlan(sys.argv[1], 2, None, 1.0, ["-c", sys.argv[2]], ["-c", sys.argv[3]])
    sys.exit(Supervisor(plan).run())
except CannotStart as error:
    sys.exit(f"cannot start: {error}")
"""


class Supervised:
    """A supervisor in a process of its own."""

    def __init__(self, folder: Path, broker: str, worker: str, stand_by_after_s: float = math.inf) -> None:
        self.log_path = folder / "log"
        self.socket_path = folder / "pool.sock"
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-c", RUN,
                    f"ipc://{self.socket_path}", broker, worker, str(stand_by_after_s),
                ],
                stderr=log,
            )  # fmt: skip

    def log(self) -> str:
        return self.log_path.read_text()

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def said(self, text: str) -> None:
        wait_until(lambda: text in self.log(), 15.0, text)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rp-") as short:
        yield Path(short)


@pytest.fixture
def start(folder: Path) -> Iterator[type[Supervised]]:
    started: list[Supervised] = []

    class Kept(Supervised):
        def __init__(self, broker: str, worker: str, stand_by_after_s: float = math.inf) -> None:
            super().__init__(folder, broker, worker, stand_by_after_s)
            started.append(self)

    yield Kept  # type: ignore[misc]
    for supervised in started:
        if supervised.process.poll() is None:
            supervised.process.kill()
            supervised.process.wait()
        print(supervised.log())


def test_workers_that_fail_at_once_do_not_crash_loop(start: type[Supervised]) -> None:
    supervised = start(BROKER, "import sys; sys.exit(2)")
    supervised.said("worker-1 has failed 5 times in a row")
    supervised.said("worker-2 has failed 5 times in a row")
    assert supervised.log().count("could not start (exit status 2)") <= 14
    supervised.process.send_signal(signal.SIGTERM)
    assert supervised.process.wait(10) == 0


def test_a_broker_that_cannot_start_ends_the_supervisor(start: type[Supervised]) -> None:
    supervised = start("import sys; sys.exit('no room')", SLEEP)
    assert supervised.process.wait(10) == 1
    assert "no room" in supervised.log()
    assert "the broker exited with status 1 before it was ready" in supervised.log()


def test_an_ended_worker_is_reported_dead_to_the_broker(start: type[Supervised]) -> None:
    supervised = start(BROKER, SLEEP)
    wait_until(lambda: len(supervised.children()) == 3)
    worker = in_order(supervised)[1]
    identity = identity_of(worker)
    worker.kill()
    supervised.said(f"head 9426c410{identity}01c2")  # [38 DEAD, bin 16 bytes, 1, false]
    wait_until(lambda: len(supervised.children()) == 3)
    replacement = in_order(supervised)[1]
    assert worker.pid not in [child.pid for child in supervised.children()]
    assert identity_of(replacement) != identity


def argument_of(child: psutil.Process, name: str) -> str:
    # Between fork and exec it still has the supervisor's command line.
    command = wait_until(lambda: "--parent-pid" in (command := child.cmdline()) and command)
    return command[command.index(name) + 1] if name in command else ""


def in_order(supervised: Supervised) -> list[psutil.Process]:
    """The broker, and the workers by name."""
    return sorted(supervised.children(), key=lambda child: argument_of(child, "--name"))


def identity_of(worker: psutil.Process) -> str:
    return argument_of(worker, "--id")


def lines_to_brokers(supervised: Supervised) -> list[dict[str, Any]]:
    """What each broker has been told on its standard input."""
    said = [line.removeprefix("line ") for line in supervised.log().splitlines() if line.startswith("line ")]
    return [json.loads(line) for line in said]


@pytest.mark.parametrize(("ends", "deaths"), [("killed", 1), ("in order", 0)])
def test_a_new_broker_is_told_of_ends_while_the_old_one_hung(
    start: type[Supervised], ends: str, deaths: int
) -> None:
    supervised = start(BROKER, ENDS_IN_ORDER)
    wait_until(lambda: supervised.log().count("ready") == 2 and "head" in supervised.log())
    broker, first, second = in_order(supervised)
    stays = identity_of(second)
    broker.suspend()
    first.send_signal(signal.SIGKILL if ends == "killed" else signal.SIGTERM)
    supervised.said(f"worker-1 (pid {first.pid})")
    wait_until(lambda: supervised.log().count("ready") == 3)
    broker.kill()
    supervised.said("the broker is back")
    before, after = lines_to_brokers(supervised)
    assert before["reign"] == after["reign"]
    assert (before["deaths"], after["deaths"]) == (0, deaths)
    successor = next(worker for worker in in_order(supervised)[1:] if worker.pid != second.pid)
    assert sorted(after["workers"]) == sorted([stays, identity_of(successor)])


def test_a_worker_that_is_told_to_end_while_it_starts_leaves_nothing_in_doubt(
    start: type[Supervised],
) -> None:
    supervised = start(BROKER, SLEEP)  # it handles no signal, as a worker does not before it has loaded all
    wait_until(lambda: len(supervised.children()) == 3 and "head 9230" in supervised.log())
    broker, first, second = in_order(supervised)
    first.terminate()
    supervised.said(f"worker-1 (pid {first.pid}) was killed by SIGTERM")
    second.kill()
    supervised.said(f"worker-2 (pid {second.pid}) was killed by SIGKILL")
    broker.kill()
    supervised.said("the broker is back")
    assert [line["deaths"] for line in lines_to_brokers(supervised)] == [0, 1]


def test_a_death_is_never_forgotten(start: type[Supervised]) -> None:
    supervised = start(BROKER, SLEEP)
    wait_until(lambda: len(supervised.children()) == 3 and "head 9230" in supervised.log())
    worker = in_order(supervised)[1]
    identity = identity_of(worker)
    worker.kill()
    supervised.said(f"head 9426c410{identity}01c2")
    for lives in (2, 3):
        in_order(supervised)[0].kill()
        wait_until(lambda lives=lives: len(lines_to_brokers(supervised)) == lives)
        assert lines_to_brokers(supervised)[-1]["deaths"] == 1
        wait_until(lambda lives=lives: supervised.log().count("the broker is back") == lives - 1)


def brokers_of(supervised: Supervised) -> list[psutil.Process]:
    """The broker, and the one that stands by, once it waits for its line."""
    wait_until(lambda: len(supervised.children()) == 4)
    unnamed = [child for child in supervised.children() if not argument_of(child, "--name")]
    broker, standby = sorted(unnamed, key=psutil.Process.create_time)
    return [broker, standby]


def test_a_killed_broker_is_followed_by_one_that_stands_by_and_another_takes_that_place(
    start: type[Supervised],
) -> None:
    supervised = start(BROKER, ENDS_IN_ORDER, 0.0)
    for lives in (1, 2, 3):
        broker, standby = brokers_of(supervised)
        broker.kill()
        supervised.said(f"the broker is back (pid {standby.pid})")
        assert supervised.log().count("broker is back") == lives


def test_one_that_stands_by_and_dies_is_replaced_and_costs_nobody_the_broker(start: type[Supervised]) -> None:
    supervised = start(BROKER, ENDS_IN_ORDER, 0.0)
    broker, standby = brokers_of(supervised)
    standby.kill()
    supervised.said(f"the stand-by broker (pid {standby.pid}) was killed by SIGKILL; replacing it in 0.1 s")
    assert standby not in brokers_of(supervised)
    assert brokers_of(supervised)[0] == broker


def test_another_one_stands_by_though_no_broker_comes_up_in_time(
    start: type[Supervised], folder: Path
) -> None:
    flag = folder / "slow"
    waits = f"import os, time\nwhile os.path.exists({str(flag)!r}): time.sleep(0.01)\n"
    supervised = start(waits + BROKER, ENDS_IN_ORDER, 0.0)
    broker, standby = brokers_of(supervised)
    flag.touch()
    standby.kill()
    supervised.said(f"the stand-by broker (pid {standby.pid}) was killed")
    broker.kill()
    supervised.said(f"broker (pid {broker.pid}) was killed")
    starting = brokers_of(supervised)
    assert "the broker is back" not in supervised.log()
    flag.unlink()
    supervised.said("the broker is back")
    assert brokers_of(supervised) == starting


def test_a_restart_takes_no_broker_that_was_started_before_it(start: type[Supervised]) -> None:
    supervised = start(BROKER, ENDS_IN_ORDER, 0.0)
    wait_until(lambda: supervised.log().count("ready") == 2 and "head" in supervised.log())
    before = brokers_of(supervised)
    assert restart(supervised).returncode == 0
    assert not {child.pid for child in brokers_of(supervised)} & {child.pid for child in before}


def test_one_that_was_frozen_while_it_stood_by_is_not_waited_for(start: type[Supervised]) -> None:
    supervised = start(BROKER, ENDS_IN_ORDER, 0.0)
    wait_until(lambda: supervised.log().count("ready") == 2 and "head" in supervised.log())
    broker, standby = brokers_of(supervised)
    standby.suspend()
    broker.kill()
    supervised.said(f"the broker (pid {standby.pid}) has not bound its sockets and is frozen; killed")
    supervised.said("the broker is back")


def test_a_stop_ends_the_broker_that_stands_by(start: type[Supervised]) -> None:
    supervised = start(BROKER, ENDS_IN_ORDER, 0.0)
    brokers = brokers_of(supervised)
    supervised.process.send_signal(signal.SIGTERM)
    assert supervised.process.wait(15) == 0
    assert not any(broker.is_running() for broker in brokers)
    assert "stand-by" not in supervised.log()


def test_a_broker_killed_again_and_again_is_back_within_seconds(start: type[Supervised]) -> None:
    supervised = start(BROKER, ENDS_IN_ORDER)
    for lives in range(1, 10):
        supervised.said("the pool is up")
        wait_until(lambda: len(supervised.children()) == 3)
        in_order(supervised)[0].kill()
        wait_until(lambda lives=lives: len(lines_to_brokers(supervised)) == lives + 1, 5.0)
    assert supervised.log().count("the broker is back") < 9, "lines that repeat are counted"


def test_a_broker_killed_before_it_came_up_is_started_again_within_seconds(start: type[Supervised]) -> None:
    supervised = start(BROKER, ENDS_IN_ORDER)
    supervised.said("the pool is up")
    for _ in range(9):
        wait_until(lambda: len(supervised.children()) == 3, 5.0)
        broker = in_order(supervised)[0]
        broker.kill()
        wait_until(lambda broker=broker: broker not in supervised.children())
    supervised.said("the broker is back")


def test_a_worker_that_never_says_hello_is_replaced(start: type[Supervised]) -> None:
    supervised = start(BROKER, SLEEP)
    supervised.said("is alive but has been silent for 7.5 s; killed")


def test_the_second_signal_ends_at_once(start: type[Supervised]) -> None:
    supervised = start(BROKER, DEAF)
    wait_until(lambda: supervised.log().count("deaf") == 2)
    children = supervised.children()
    supervised.process.send_signal(signal.SIGINT)
    supervised.said("SIGINT: stopping")
    supervised.process.send_signal(signal.SIGINT)
    assert supervised.process.wait(5) == 1
    assert not any(child.is_running() for child in children)
    assert not supervised.socket_path.exists()


def test_children_that_do_not_stop_are_killed(start: type[Supervised]) -> None:
    supervised = start(BROKER, DEAF)
    wait_until(lambda: supervised.log().count("deaf") == 2)
    supervised.process.send_signal(signal.SIGTERM)
    assert supervised.process.wait(10) == 0
    assert "did not finish within 1 s; killed" in supervised.log()


def test_a_broker_is_told_that_the_cluster_stops(start: type[Supervised]) -> None:
    supervised = start(BROKER, DEAF)
    wait_until(lambda: supervised.log().count("deaf") == 2 and "head" in supervised.log())
    supervised.process.send_signal(signal.SIGTERM)
    supervised.said("head 9129")  # [41 STOPPING]
    assert supervised.process.wait(10) == 0


def test_children_told_to_stop_while_they_boot_are_no_warning(start: type[Supervised]) -> None:
    supervised = start(BROKER, SLEEP)  # SLEEP does not catch SIGTERM, as a child that is still starting
    wait_until(lambda: len(supervised.children()) == 3)
    supervised.process.send_signal(signal.SIGTERM)
    assert supervised.process.wait(10) == 0
    assert "WARNING" not in supervised.log()


def test_a_child_that_dies_of_something_else_while_stopping_is_said(start: type[Supervised]) -> None:
    supervised = start(BROKER, DEAF)
    wait_until(lambda: supervised.log().count("deaf") == 2)
    workers = in_order(supervised)[1:]
    supervised.process.send_signal(signal.SIGTERM)
    supervised.said("SIGTERM: stopping")
    workers[0].send_signal(signal.SIGSEGV)
    supervised.said(f"worker-1 (pid {workers[0].pid}) was killed by SIGSEGV while stopping")
    assert supervised.process.wait(10) == 0
    assert f"worker-2 (pid {workers[1].pid})" not in supervised.log()


def test_workers_come_and_go_as_it_is_told(start: type[Supervised]) -> None:
    supervised = start(BROKER, ENDS_IN_ORDER)
    wait_until(lambda: supervised.log().count("ready") == 2)
    first, second = in_order(supervised)[1:]
    supervised.process.send_signal(signal.SIGUSR1)
    wait_until(lambda: supervised.log().count("ready") == 3)
    third = in_order(supervised)[-1]
    for left in ("2 workers", "1 worker"):
        supervised.process.send_signal(signal.SIGUSR2)
        supervised.said(f"scaling to {left}")
    psutil.wait_procs([second, third], timeout=10)
    assert first.is_running()
    supervised.process.send_signal(signal.SIGUSR2)
    supervised.said("the number of workers stays 1: it must be from 1 to 256")
    supervised.process.send_signal(signal.SIGUSR1)  # takes the second one's place
    wait_until(lambda: supervised.log().count("ready") == 4)
    names = [argument_of(child, "--name") for child in in_order(supervised)[1:]]
    assert names == ["worker-1", "worker-2"]
    supervised.process.send_signal(signal.SIGTERM)
    assert supervised.process.wait(10) == 0
    assert "replaced" not in supervised.log()


def test_a_worker_that_is_to_go_and_does_not_is_killed(start: type[Supervised]) -> None:
    supervised = start(BROKER, DEAF)
    wait_until(lambda: supervised.log().count("deaf") == 2)
    last = in_order(supervised)[-1]
    supervised.process.send_signal(signal.SIGUSR2)
    supervised.said("worker-2 did not finish within 1 s; killed")
    psutil.wait_procs([last], timeout=10)
    assert len(supervised.children()) == 2


def restart(supervised: Supervised) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "reqpool_ops", "restart", "--url", f"ipc://{supervised.socket_path}"],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_restart_replaces_all_processes_but_the_supervisor(start: type[Supervised]) -> None:
    supervised = start(BROKER, ENDS_IN_ORDER)
    wait_until(lambda: supervised.log().count("ready") == 2 and "head" in supervised.log())
    before = in_order(supervised)
    done = restart(supervised)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("2 workers and the broker replaced in ")
    after = in_order(supervised)
    assert [argument_of(child, "--name") for child in after] == ["", "worker-1", "worker-2"]
    assert not {child.pid for child in before} & {child.pid for child in after}
    assert [line["deaths"] for line in lines_to_brokers(supervised)] == [0, 0]
    assert sorted(lines_to_brokers(supervised)[-1]["workers"]) == sorted(map(identity_of, after[1:]))


def test_restarts_follow_one_another(start: type[Supervised]) -> None:
    supervised = start(BROKER, ENDS_IN_ORDER)
    wait_until(lambda: supervised.log().count("ready") == 2 and "head" in supervised.log())
    with concurrent.futures.ThreadPoolExecutor(2) as operators:
        done = list(operators.map(restart, [supervised] * 2))
    assert [run.returncode for run in done] == [0, 0]
    assert "the restart failed" not in supervised.log()
    assert len(in_order(supervised)) == 3


def test_a_restart_whose_workers_do_not_come_up_is_given_up_and_nothing_else_is_replaced(
    start: type[Supervised], folder: Path
) -> None:
    flag = folder / "broken"
    is_broken = f"os.path.exists({str(flag)!r})"
    supervised = start(
        BROKER.replace("live.add", f"{is_broken} or live.add"),
        f"import os, sys\nif {is_broken}: sys.exit(2)\n{ENDS_IN_ORDER}",
    )
    wait_until(lambda: supervised.log().count("ready") == 2 and "head" in supervised.log())
    before = in_order(supervised)
    flag.touch()
    done = restart(supervised)
    assert (done.returncode, done.stdout) == (1, "")
    said = "the new worker-1 did not come up; see its output above"
    assert done.stderr == f"reqpool: the restart failed: {said}\n"
    assert in_order(supervised) == before


def test_a_restart_whose_broker_does_not_come_up_leaves_the_old_one(
    start: type[Supervised], folder: Path
) -> None:
    flag = folder / "broken"
    supervised = start(
        f"import os, sys\nif os.path.exists({str(flag)!r}): sys.exit(2)\n{BROKER}", ENDS_IN_ORDER
    )
    wait_until(lambda: supervised.log().count("ready") == 2 and "head" in supervised.log())
    broker = in_order(supervised)[0]
    flag.touch()
    done = restart(supervised)
    assert (done.returncode, "the new broker did not come up" in done.stderr) == (1, True)
    assert broker.is_running()


SLOW_TO_GO = """
import os, signal
signal.signal(signal.SIGTERM, lambda *_: os.write(2, b"told to go" + bytes([10])))
"""


def test_a_broker_that_stands_by_and_dies_while_the_old_one_goes_is_replaced(start: type[Supervised]) -> None:
    supervised = start(SLOW_TO_GO + BROKER, ENDS_IN_ORDER)
    wait_until(lambda: supervised.log().count("ready") == 2 and "head" in supervised.log())
    supervised.process.send_signal(signal.SIGRTMIN)
    supervised.said("told to go")
    old, standby = sorted(
        (child for child in in_order(supervised)[:2]), key=lambda child: child.create_time()
    )
    standby.kill()
    supervised.said(f"broker (pid {old.pid}) was killed by SIGKILL; replacing it in")
    supervised.said("the broker is back")


def test_a_stop_while_the_old_broker_goes_still_has_one_for_what_workers_finish(
    start: type[Supervised],
) -> None:
    supervised = start(SLOW_TO_GO + BROKER, DEAF)
    wait_until(lambda: supervised.log().count("deaf") == 2 and "head" in supervised.log())
    supervised.process.send_signal(signal.SIGRTMIN)
    supervised.said("told to go")
    old = min(in_order(supervised)[:2], key=lambda child: child.create_time())
    supervised.process.send_signal(signal.SIGTERM)
    supervised.said("SIGTERM: stopping")
    old.kill()
    supervised.said(f"broker (pid {old.pid}) was killed by SIGKILL; replacing it in")
    assert supervised.process.wait(15) == 0


def test_a_stop_during_a_restart_leaves_nothing(start: type[Supervised]) -> None:
    supervised = start(BROKER, DEAF)  # whose old ones do not go, for a second
    wait_until(lambda: supervised.log().count("deaf") == 2 and "head" in supervised.log())
    supervised.process.send_signal(signal.SIGRTMIN)
    wait_until(lambda: supervised.log().count("deaf") == 3)
    children = supervised.children()
    supervised.process.send_signal(signal.SIGTERM)
    assert supervised.process.wait(10) == 0
    assert not any(child.is_running() for child in children)


def test_processes_that_cannot_be_started_for_want_of_fds_are_started_when_there_are_some(
    start: type[Supervised],
) -> None:
    supervised = start(BROKER, ENDS_IN_ORDER)
    wait_until(lambda: supervised.log().count("ready") == 2 and "head" in supervised.log())
    broker, first, second = in_order(supervised)
    supervisor = psutil.Process(supervised.process.pid)
    limits = supervisor.rlimit(psutil.RLIMIT_NOFILE)
    assert limits[0] == limits[1], "all that may be taken is taken"
    supervisor.rlimit(psutil.RLIMIT_NOFILE, (8, limits[1]))  # it has those already
    first.kill()
    supervised.said("cannot start worker-1: Too many open files; retrying in")
    broker.kill()
    supervised.said("cannot start broker: Too many open files; retrying in")
    assert second.is_running()
    supervisor.rlimit(psutil.RLIMIT_NOFILE, limits)
    supervised.said("the broker is back")
    wait_until(lambda: len(supervised.children()) == 3)
    assert [line["deaths"] for line in lines_to_brokers(supervised)] == [0, 1]
    assert supervised.process.poll() is None
    assert "Traceback" not in supervised.log()


def test_a_broker_that_cannot_be_reached_for_want_of_fds_is_not_killed(start: type[Supervised]) -> None:
    supervised = start(BROKER, ENDS_IN_ORDER)
    wait_until(lambda: supervised.log().count("ready") == 2 and "head" in supervised.log())
    supervisor = psutil.Process(supervised.process.pid)
    limits = supervisor.rlimit(psutil.RLIMIT_NOFILE)
    broker = in_order(supervised)[0]
    supervisor.rlimit(psutil.RLIMIT_NOFILE, (8, limits[1]))
    broker.suspend()  # its silence looks no different from a connection that cannot be made
    supervised.said(f"cannot tell whether the broker (pid {broker.pid}) hangs: Too many open files")
    assert broker.is_running()
    supervisor.rlimit(psutil.RLIMIT_NOFILE, limits)
    supervised.said(f"the broker (pid {broker.pid}) is alive but has been silent")


BUSY = BROKER.replace(
    "    route, head = socket",
    """    while os.path.exists(url.removeprefix("ipc://") + ".busy"): pass
    route, head = socket""",
)


def test_a_frozen_broker_is_killed_before_its_clients_give_up(start: type[Supervised]) -> None:
    supervised = start(BROKER, ENDS_IN_ORDER)
    wait_until(lambda: supervised.log().count("ready") == 2 and "head" in supervised.log())
    broker = in_order(supervised)[0]
    broker.suspend()
    supervised.said("s and is frozen; killed")
    supervised.said("the broker is back")


def test_a_busy_broker_is_not_taken_for_frozen(start: type[Supervised]) -> None:
    supervised = start(BUSY, ENDS_IN_ORDER)
    wait_until(lambda: supervised.log().count("ready") == 2 and "head" in supervised.log())
    Path(f"{supervised.socket_path}.busy").touch()
    supervised.said("is alive but has been silent for")
    assert "is frozen" not in supervised.log()


def test_a_second_supervisor_of_one_address_is_refused(start: type[Supervised], folder: Path) -> None:
    first = start(BROKER, SLEEP)
    first.said("the pool is up")
    other = subprocess.run(
        [sys.executable, "-c", RUN, f"ipc://{first.socket_path}", BROKER, SLEEP, "inf"],
        capture_output=True,
        text=True,
    )
    assert other.returncode == 1
    assert f"already running at ipc://{first.socket_path} (pid {first.process.pid})" in other.stderr
    assert first.socket_path.exists()


def test_what_a_killed_supervisor_leaves_is_no_obstacle(start: type[Supervised]) -> None:
    first = start(BROKER, SLEEP)
    first.said("the pool is up")
    children = first.children()
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.wait()
    psutil.wait_procs(children, timeout=10)
    assert first.socket_path.exists()
    second = start(BROKER, SLEEP)
    second.said("the pool is up")


LINGERS = (
    BROKER
    + """
path = url.removeprefix("ipc://")
while os.path.exists(os.path.dirname(path)) and not os.path.exists(path + ".go"): time.sleep(0.01)
"""
)


def after_a_kill(start: type[Supervised]) -> Supervised:
    """A supervisor that follows a killed one, whose broker ends when PATH.go is there or the folder gone."""
    first = start(LINGERS, SLEEP)
    first.said("the pool is up")
    first.process.kill()
    first.process.wait()
    return start(LINGERS, SLEEP)


def test_a_new_supervisor_waits_for_the_end_of_a_killed_ones_broker(start: type[Supervised]) -> None:
    second = after_a_kill(start)
    url = f"ipc://{second.socket_path}"
    wait_until(lambda: (runtime.read_lock(url) or {}).get("pid") == second.process.pid)
    Path(f"{second.socket_path}.go").touch()
    second.said("the pool is up")


def test_a_new_supervisor_does_not_wait_for_ever_for_a_killed_ones_broker(start: type[Supervised]) -> None:
    second = after_a_kill(start)
    assert second.process.wait(15) == 1
    assert f"already running at ipc://{second.socket_path} (pid " in second.log()
    Path(f"{second.socket_path}.go").touch()
