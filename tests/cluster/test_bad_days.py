"""Processes that are killed, frozen and stopped under load: every request ends once, as README promises."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dnslib
import pytest

import reqpool
from reqpool_broker.results_placement import SESSIONS_PER_SOCKET
from reqpool_contract.wire import LIVENESS_MS
from support import impatient
from support.cluster import Cluster, cluster
from support.dns_peer import ADDRESS, DnsPeer, UdpPeer, echo
from support.ends import Ends
from support.program import program, wait_stopped
from support.tcp_peer import Connection, TcpPeer
from support.wait import wait_until

LOOKUP_CAP, DATAGRAM_CAP, TCP_CAP = 256, 64, 64
"""The default limits of dns, udp and tcp, docs/operations.md."""
LIVENESS_S = LIVENESS_MS / 1000


@pytest.fixture
def running() -> Iterator[Cluster]:
    with cluster(workers=2) as started:
        yield started
        started.wait_settled()


@pytest.fixture
def pool(running: Cluster) -> Iterator[reqpool.Pool]:
    with reqpool.Pool(running.url, timeout=30.0) as opened:
        yield opened
        assert opened.stats().pending == 0


def names_asked(peer: DnsPeer) -> Counter[str]:
    """How often each name has been asked for."""
    return Counter(str(dnslib.DNSRecord.parse(query).q.qname) for query in list(peer.queries))


def look_up(pool: reqpool.Pool, peer: DnsPeer, count: int, ends: Ends) -> list[reqpool.Future[Any]]:
    return [pool.dns(f"n{number}.test", server=peer.address, callback=ends) for number in range(count)]


def check_answers(futures: list[reqpool.Future[Any]]) -> None:
    for future in futures:
        assert [record.value for record in future.result(30).records] == [ADDRESS]


class Load:
    """Requests from threads until told to stop: idempotent DNS, and datagrams that must not be repeated."""

    def __init__(self, pool: reqpool.Pool, dns: DnsPeer, udp: DnsPeer) -> None:
        self._pool = pool
        self._dns = dns
        self._udp = udp
        self._stop = threading.Event()
        self.answered = 0
        self.echoed: list[bytes] = []
        self.errors: list[BaseException | None] = []
        self.faults: list[BaseException] = []

    def __enter__(self) -> Load:
        self._threads = [threading.Thread(target=self._guard, args=(run,)) for run in (self._ask, self._send)]
        for thread in self._threads:
            thread.start()
        self.wait_for_more()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()
        assert not self.faults

    def wait_for_more(self, count: int = 100) -> None:
        """Wait until so many more of both have been answered."""
        dns, udp = self.answered + count, len(self.echoed) + count
        wait_until(lambda: self.answered >= dns and len(self.echoed) >= udp, 20.0, "the load goes on")

    def _guard(self, run: Any) -> None:
        try:
            run()
        except BaseException as error:
            self.faults.append(error)

    def _ask(self) -> None:
        def names() -> Iterator[str]:
            while not self._stop.is_set():
                yield f"n{self.answered}.test"

        for _, future in self._pool.map(self._pool.dns, names(), window=50, server=self._dns.address):
            if future.exception() is None:
                self.answered += 1
            else:
                self.errors.append(future.exception())

    def _udp_once(self, data: bytes, **options: Any) -> reqpool.Future[bytes]:
        return self._pool.udp(self._udp.address, data, **options)

    def _send(self) -> None:
        def datagrams() -> Iterator[bytes]:
            number = 0
            while not self._stop.is_set():
                number += 1
                yield b"%d" % number

        for sent, future in self._pool.map(self._udp_once, datagrams(), window=20):
            if future.exception() is None:
                assert future.result() == sent
                self.echoed.append(sent)
            else:
                self.errors.append(future.exception())


# --- workers -----------------------------------------------------------------------------------------


def test_lookups_in_flight_at_a_killed_worker_run_elsewhere(running: Cluster, pool: reqpool.Pool) -> None:
    ends = Ends()
    with DnsPeer(held=True) as peer:
        futures = look_up(pool, peer, 400, ends)
        wait_until(lambda: len(names_asked(peer)) == LOOKUP_CAP)
        killed = running.holder()
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: running.report()["counters"]["requeued"] == LOOKUP_CAP)
        peer.release()
        check_answers(futures)
    ends.check(futures)
    wait_until(lambda: killed not in running.worker_pids)


def test_datagrams_in_flight_at_a_killed_worker_are_never_sent_twice(
    running: Cluster, pool: reqpool.Pool
) -> None:
    ends = Ends()
    with UdpPeer(echo, held=True) as peer:
        futures = [pool.udp(peer.address, b"%d" % number, callback=ends) for number in range(100)]
        peer.wait_for_queries(DATAGRAM_CAP)
        os.kill(running.holder(), signal.SIGKILL)
        # Those that had been leased: nobody knows. Those that still waited are sent, once.
        peer.wait_for_queries(100)
        peer.release()
        errors = [future.exception(30) for future in futures]
        assert Counter(type(error) for error in errors) == {
            reqpool.OutcomeUnknown: DATAGRAM_CAP,
            type(None): 100 - DATAGRAM_CAP,
        }
        assert sorted(peer.queries) == sorted(b"%d" % number for number in range(100))
    ends.check(futures)


def test_lookups_at_a_frozen_worker_are_answered_by_another(running: Cluster, pool: reqpool.Pool) -> None:
    ends = Ends()
    with DnsPeer(held=True) as peer:
        futures = look_up(pool, peer, 100, ends)
        wait_until(lambda: len(names_asked(peer)) == 100)
        frozen = running.holder()
        os.kill(frozen, signal.SIGSTOP)
        wait_stopped(frozen)
        asked, ports = names_asked(peer), set(peer.senders)
        wait_until(lambda: len(names_asked(peer) - asked) == 100 and set(peer.senders) - ports)
        peer.release()
        check_answers(futures)
        os.kill(frozen, signal.SIGCONT)
        wait_until(lambda: frozen in running.worker_pids, 10.0, "the worker is live again")
        check_answers(look_up(pool, peer, 10, Ends()))
    ends.check(futures)


def test_a_datagram_at_a_frozen_worker_waits_for_it(running: Cluster, pool: reqpool.Pool) -> None:
    ends = Ends()
    with UdpPeer(echo, held=True) as peer:
        futures = [pool.udp(peer.address, b"%d" % number, callback=ends) for number in range(50)]
        peer.wait_for_queries(50)
        frozen = running.holder()
        os.kill(frozen, signal.SIGSTOP)
        wait_until(lambda: frozen not in running.worker_pids, 10.0, "the worker is suspect")
        peer.release()
        os.kill(frozen, signal.SIGCONT)
        assert [future.result(30) for future in futures] == [b"%d" % number for number in range(50)]
        assert len(peer.queries) == 50
    ends.check(futures)
    assert frozen in running.worker_pids


def test_workers_stopped_one_after_the_other_cost_nothing(running: Cluster, pool: reqpool.Pool) -> None:
    with DnsPeer() as dns, UdpPeer(echo) as udp:
        with Load(pool, dns, udp) as load:
            for pid in running.worker_pids:
                os.kill(pid, signal.SIGTERM)
                wait_until(
                    lambda pid=pid: len(pids := running.worker_pids) == 2 and pid not in pids,  # type: ignore[misc]
                    15.0,
                    "the worker is replaced",
                )
                load.wait_for_more()
        assert load.errors == []
        assert sorted(udp.queries) == sorted(load.echoed)


# --- the broker --------------------------------------------------------------------------------------


def test_a_broker_killed_under_load_loses_no_lookup_and_repeats_no_datagram(
    running: Cluster, pool: reqpool.Pool
) -> None:
    epoch = running.report()["epoch"]
    with DnsPeer() as dns, UdpPeer(echo) as udp:
        with Load(pool, dns, udp) as load:
            os.kill(running.broker_pid, signal.SIGKILL)
            load.wait_for_more()
        assert {type(error) for error in load.errors} <= {reqpool.OutcomeUnknown}
        assert set(Counter(udp.queries).values()) == {1}
        assert set(load.echoed) <= set(udp.queries)
    assert pool.stats().reconnects >= 1
    assert running.wait_settled()["epoch"] != epoch


def test_requests_in_flight_at_a_killed_broker_are_answered(running: Cluster, pool: reqpool.Pool) -> None:
    ends = Ends()
    with DnsPeer(held=True) as dns, UdpPeer(echo, held=True) as udp:
        lookups = look_up(pool, dns, 500, ends)
        datagrams = [pool.udp(udp.address, b"%d" % number, callback=ends) for number in range(300)]
        wait_until(lambda: len(names_asked(dns)) == LOOKUP_CAP)
        udp.wait_for_queries(DATAGRAM_CAP)
        os.kill(running.broker_pid, signal.SIGKILL)
        wait_until(lambda: pool.stats().reconnects == 1 and pool.stats().state == "open", 15.0)
        dns.release()
        udp.release()
        check_answers(lookups)
        # Both workers lived and reported what they hold, so nobody has to be told "outcome unknown".
        assert [future.result(30) for future in datagrams] == [b"%d" % number for number in range(300)]
        assert set(Counter(udp.queries).values()) == {1}
    ends.check(lookups + datagrams)


def test_clients_of_several_results_sockets_outlive_their_broker(running: Cluster) -> None:
    with contextlib.ExitStack() as opened:
        peer = opened.enter_context(DnsPeer())
        pools = [
            opened.enter_context(reqpool.Pool(running.url, timeout=60.0))
            for _ in range(SESSIONS_PER_SOCKET + 9)
        ]
        futures = [pool.dns(f"a{n}.test", server=peer.address) for n, pool in enumerate(pools)]
        check_answers(futures)
        folder = Path(running.url.removeprefix("ipc://")).parent
        assert [path.name for path in folder.glob("*.res[0-9]*")] == ["pool.sock.res1"]
        os.kill(running.broker_pid, signal.SIGKILL)
        futures = [pool.dns(f"b{n}.test", server=peer.address) for n, pool in enumerate(pools)]
        check_answers(futures)


def test_a_new_broker_waits_for_workers_that_the_client_never_heard_of(
    running: Cluster, pool: reqpool.Pool
) -> None:
    with UdpPeer(echo, held=True) as peer, UdpPeer(echo) as quick:
        assert pool.udp(quick.address, b"hello").result() == b"hello"  # its session names the present workers
        before = running.worker_pids
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(pids := running.worker_pids) == 2 and not {*pids} & {*before}, 15.0)
        datagrams = [b"%d" % number for number in range(DATAGRAM_CAP)]
        futures = [pool.udp(peer.address, datagram) for datagram in datagrams]
        peer.wait_for_queries(DATAGRAM_CAP)
        os.kill(running.broker_pid, signal.SIGKILL)
        wait_until(lambda: pool.stats().reconnects == 1 and pool.stats().state == "open", 15.0)
        peer.release()
        assert [future.result(30) for future in futures] == datagrams
        assert set(Counter(peer.queries).values()) == {1}


def test_a_broker_that_was_frozen_comes_back_as_a_new_epoch(running: Cluster, pool: reqpool.Pool) -> None:
    epoch, broker = running.report()["epoch"], running.broker_pid
    ends = Ends()
    with DnsPeer(held=True) as dns, UdpPeer(echo, held=True) as udp:
        lookups = look_up(pool, dns, 100, ends)
        datagrams = [pool.udp(udp.address, b"%d" % number, callback=ends) for number in range(40)]
        hasty = [
            pool.udp(udp.address, b"hasty %d" % number, timeout=2.0, callback=ends) for number in range(20)
        ]
        wait_until(lambda: len(names_asked(dns)) == 100)
        udp.wait_for_queries(60)
        os.kill(broker, signal.SIGSTOP)
        wait_stopped(broker)
        frozen_s = time.monotonic()
        for future in hasty:
            with pytest.raises(reqpool.RequestTimeout):
                future.result(3)
        dns.release()
        udp.release()
        # How long it sleeps is what is tried here.
        wait_until(lambda: time.monotonic() > frozen_s + LIVENESS_S + 1.0)
        late = look_up(pool, dns, 100, ends)
        with contextlib.suppress(ProcessLookupError):  # the supervisor may have seen that it does not run
            os.kill(broker, signal.SIGCONT)
        check_answers(lookups + late)
        assert [future.result(30) for future in datagrams] == [b"%d" % number for number in range(40)]
        assert set(Counter(udp.queries).values()) == {1}
    ends.check(lookups + datagrams + hasty + late)
    assert running.wait_settled()["epoch"] != epoch


# --- clients -----------------------------------------------------------------------------------------

SUBMITTER = """
import sys, reqpool
url, address, count = sys.argv[1:]
pool = reqpool.Pool(url, timeout=60)
futures = [pool.udp(address, b"%d" % number) for number in range(int(count))]
print("submitted", flush=True)
pool.close()
"""


def test_a_killed_clients_queue_is_dropped_and_nobody_else_notices() -> None:
    with (
        cluster(workers=2, program=[impatient.__file__]) as running,
        reqpool.Pool(running.url) as pool,
        UdpPeer(echo, held=True) as slow,
        UdpPeer(echo) as quick,
    ):
        assert pool.udp(quick.address, b"before").result() == b"before"
        with program(SUBMITTER, running.url, slow.address, "1000") as client:
            assert client.line() == "submitted"
            origin = f"udp://{slow.address}"
            wait_until(
                lambda: running.report()["origins"].get(origin, {}).get("queued") == 1000 - DATAGRAM_CAP
            )
            client.process.kill()
        assert pool.udp(quick.address, b"meanwhile").result() == b"meanwhile"
        wait_until(lambda: running.report()["origins"][origin]["queued"] == 0, 10.0, "the queue is dropped")
        assert running.report()["origins"][origin]["in_flight"] == DATAGRAM_CAP
        assert len(slow.queries) == DATAGRAM_CAP
        slow.release()
        report = running.wait_settled()
        assert report["origins"][origin]["done"] == DATAGRAM_CAP  # what ran is counted, though unheard
        assert len(slow.queries) == DATAGRAM_CAP
        assert pool.udp(slow.address, b"after").result() == b"after"
        assert pool.stats().reconnects == 0
        wait_until(lambda: [s["pid"] for s in running.report()["sessions"]] == [os.getpid()])


READER = """
import sys, reqpool
url, address, count, size = sys.argv[1:]
with reqpool.Pool(url, timeout=60) as pool:
    futures = [pool.tcp(address, b"?", length=int(size)) for _ in range(int(count))]
    print("submitted", flush=True)
    print(sum(future.result() == bytes(int(size)) for future in futures), flush=True)
"""
ANSWER_BYTES = 1 << 16
ANSWERS = 500
"""About 32 MB of answers: twice what the broker keeps for one session."""


def test_a_client_that_does_not_read_throttles_only_itself(running: Cluster, pool: reqpool.Pool) -> None:
    may_answer = threading.Event()

    def script(connection: Connection) -> None:
        connection.read()
        assert may_answer.wait(30)
        connection.send(bytes(ANSWER_BYTES))
        connection.wait_for_end()

    with (
        TcpPeer(script) as peer,
        program(READER, running.url, peer.address, str(ANSWERS), str(ANSWER_BYTES)) as client,
    ):
        assert client.line() == "submitted"
        origin = f"tcp://{peer.address}"

        def about() -> dict[str, int]:
            found: dict[str, int] = running.report()["origins"].get(origin, {})
            return found

        wait_until(lambda: about() and about()["queued"] + about()["in_flight"] == ANSWERS)
        os.kill(client.pid, signal.SIGSTOP)
        wait_stopped(client.pid)
        may_answer.set()
        waiting = wait_until(lambda: not about()["in_flight"] and about()["queued"], 20.0, "throttled")
        assert 0 < waiting < ANSWERS
        for _ in range(20):
            assert len(pool.tcp(peer.address, b"?", length=ANSWER_BYTES).result(5)) == ANSWER_BYTES
        assert about()["queued"] == waiting
        os.kill(client.pid, signal.SIGCONT)
        assert client.line() == str(ANSWERS)
        assert client.end()[0::2] == (0, "")


# --- the supervisor ----------------------------------------------------------------------------------


def test_nothing_outlives_a_supervisor_killed_under_load() -> None:
    with tempfile.TemporaryDirectory(prefix="rp-") as folder, DnsPeer() as dns, UdpPeer(echo) as udp:
        running = Cluster(Path(folder), f"ipc://{folder}/pool.sock", 2, ())
        running.wait_ready()
        pool = reqpool.Pool(running.url, timeout=2.0)
        with Load(pool, dns, udp):
            children = running.children()
            running.kill()
            wait_until(lambda: not any(child.is_running() for child in children), 10.0, "all are gone")
            waiting = pool.dns("n.test", server=dns.address)
            with pytest.raises(reqpool.RequestTimeout, match="connection to the broker"):
                waiting.result(5)
        pool.close()


def test_what_only_waited_runs_though_the_supervisor_was_killed() -> None:
    def silent(connection: Connection) -> None:
        reached.append(connection.read_until(b"\n"))
        connection.peer.wait_for_go()
        connection.send(b"yes\n")

    reached: list[bytes] = []
    with tempfile.TemporaryDirectory(prefix="rp-") as folder, TcpPeer(silent) as peer:
        url = f"ipc://{folder}/pool.sock"
        running = Cluster(Path(folder), url, 2, ())
        running.wait_ready()
        with reqpool.Pool(url, timeout=30.0) as pool:
            futures = [pool.tcp(peer.address, b"%d\n" % number, until=b"\n") for number in range(200)]
            wait_until(lambda: len(reached) == TCP_CAP, 10.0, "all connections are taken")
            leased = sum(worker["in_flight"] for worker in running.live_workers())
            running.kill()
            running = Cluster(Path(folder), url, 2, ())
            try:
                peer.go.release(2 * len(futures))
                errors = [type(future.exception(30)) for future in futures]
            finally:
                running.supervisor.send_signal(signal.SIGTERM)
                running.supervisor.wait(25)
    assert leased > TCP_CAP, "some wait at the workers"
    assert Counter(errors) == {reqpool.OutcomeUnknown: TCP_CAP, type(None): len(futures) - TCP_CAP}
    assert max(Counter(reached).values()) == 1
