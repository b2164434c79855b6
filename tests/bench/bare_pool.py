"""The least that a pool over ZeroMQ costs: the sockets of ours with msgpack heads, and not one feature.

A client's DEALER and SUB, a broker's ROUTER, XPUB and ROUTER, one worker's DEALER, and one pipelined
connection to Redis. Nothing is tried again, limited, timed or checked: it is not a pool to use, but the floor
under one.
"""

from __future__ import annotations

import collections
import itertools
import multiprocessing
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import msgpack
import zmq

from . import processes

_HELLO = b"hello"
_READABLE = int(zmq.POLLIN)  # without the enum, whose & costs more than the test
_FIRST_ANSWER_MS = 50
_LARGEST_READ = 262_144


def _intake(folder: str) -> str:
    return f"ipc://{folder}/intake"


def _results(folder: str) -> str:
    return f"ipc://{folder}/results"


def _workers(folder: str) -> str:
    return f"ipc://{folder}/workers"


def _broker(folder: str) -> None:
    context = zmq.Context()
    intake, results, workers = (
        context.socket(zmq.ROUTER),
        context.socket(zmq.XPUB),
        context.socket(zmq.ROUTER),
    )
    intake.bind(_intake(folder))
    results.bind(_results(folder))
    workers.bind(_workers(folder))
    poller = zmq.Poller()
    for each in (intake, results, workers):
        poller.register(each, zmq.POLLIN)
    worker = None
    while True:
        poller.poll()
        again = True
        while again:  # ZMQ_FD is edge-triggered: sleep only when no socket has anything
            again = False
            leased: list[Any] = []
            published: dict[bytes, list[Any]] = {}
            for each in (intake, workers, results):
                while int(each.get(zmq.EVENTS)) & _READABLE:
                    again = True
                    frames = each.recv_multipart()
                    if each is intake:
                        leased.append(msgpack.unpackb(frames[1]))
                    elif each is workers and frames[1] == _HELLO:
                        worker = frames[0]
                    elif each is workers:
                        for session, answers in msgpack.unpackb(frames[1]):
                            published.setdefault(session, []).extend(answers)
            if leased and worker is not None:
                workers.send_multipart([worker, msgpack.packb(leased)])
            for session, answers in published.items():
                results.send_multipart([session, msgpack.packb(answers)])


def _worker(folder: str, port: int) -> None:
    leases = zmq.Context().socket(zmq.DEALER)
    leases.connect(_workers(folder))
    leases.send(_HELLO)
    upstream = socket.create_connection(("127.0.0.1", port))
    upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    upstream.setblocking(False)
    poller = zmq.Poller()
    poller.register(leases, zmq.POLLIN)
    poller.register(upstream, zmq.POLLIN)
    asked: collections.deque[tuple[bytes, int]] = collections.deque()
    rest = b""
    while True:
        poller.poll()
        again = True
        while again:
            again = False
            commands: list[bytes] = []
            while int(leases.get(zmq.EVENTS)) & _READABLE:
                again = True
                for session, batch in msgpack.unpackb(leases.recv()):
                    for number, command in batch:
                        asked.append((session, number))
                        commands.append(command)
            if commands:
                upstream.sendall(b"".join(commands))
            try:
                rest += upstream.recv(_LARGEST_READ)
            except BlockingIOError:
                continue
            found, rest = values(rest)
            answers: dict[bytes, list[tuple[int, bytes]]] = {}
            for value in found:
                session, number = asked.popleft()
                answers.setdefault(session, []).append((number, value))
            if answers:
                leases.send(msgpack.packb(list(answers.items())))
                again = True


def values(replies: bytes) -> tuple[list[bytes], bytes]:
    """Return the values of complete bulk replies, and what is left."""
    found = []
    at = 0
    while (end := replies.find(b"\r\n", at)) >= 0:
        first, last = end + 2, end + 2 + int(replies[at + 1 : end])
        if len(replies) < last + 2:
            break
        found.append(replies[first:last])
        at = last + 2
    return found, replies[at:]


@contextmanager
def running(port: int) -> Iterator[tuple[str, processes.Roles]]:
    """Run broker and worker, each a process; gives the folder of their sockets, and their pids by role.

    Args:
        port: of a Redis at 127.0.0.1.
    """
    # Spawned: a ZeroMQ context does not survive a fork.
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        broker = spawn.Process(target=_broker, args=(folder,), daemon=True)
        worker = spawn.Process(target=_worker, args=(folder, port), daemon=True)
        for process in (broker, worker):
            process.start()
            stack.callback(process.join)
            stack.callback(process.terminate)
        assert broker.pid is not None
        assert worker.pid is not None
        yield folder, {"broker": [broker.pid], "workers": [worker.pid]}


@contextmanager
def client(folder: str, key: str) -> Iterator[Callable[[str], bytes]]:
    """Connect; gives a function that asks for a key, waits, and returns its value.

    Args:
        folder: of the sockets.
        key: one that there is, to try with.
    """
    session = os.urandom(16)
    numbers = itertools.count()
    with zmq.Context() as context, context.socket(zmq.DEALER) as submit, context.socket(zmq.SUB) as results:
        for each in (submit, results):
            each.linger = 0
        submit.connect(_intake(folder))
        results.connect(_results(folder))
        results.subscribe(session)

        def send(key: str) -> int:
            number, name = next(numbers), key.encode("ascii")
            command = b"*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n" % (len(name), name)
            submit.send(msgpack.packb((session, [(number, command)])))
            return number

        def ask(key: str) -> bytes:
            wanted = send(key)
            while True:
                for number, value in msgpack.unpackb(results.recv_multipart()[1]):
                    if number == wanted:
                        return bytes(value)

        # A SUB hears only what is published once its subscription has arrived, and is not told when that is.
        while not results.poll(_FIRST_ANSWER_MS):
            send(key)
        yield ask
