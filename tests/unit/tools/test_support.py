"""The scripted peers do what their names say: a test is worth no more than its peer."""

from __future__ import annotations

import socket

import dnslib
import pytest

from support import dns_peer, tcp_peer
from support.dns_peer import ADDRESS, DnsPeer, Script, after, both, closed_port, cut, refuses
from support.leaks import no_leak
from support.tcp_peer import TcpPeer
from support.wait import wait_until

QUERY = bytes(dnslib.DNSRecord.question("www.example.test").pack())


def ask(address: str, query: bytes = QUERY) -> socket.socket:
    host, _, port = address.rpartition(":")
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(5)
    sock.connect((host, int(port)))
    sock.send(query)
    return sock


def dial(peer: TcpPeer) -> socket.socket:
    host, _, port = peer.address.rpartition(":")
    return socket.create_connection((host, int(port)), 5)


def test_a_dns_peer_answers_truly_and_remembers() -> None:
    with no_leak(), DnsPeer() as peer, ask(peer.address) as sock:
        answer = dnslib.DNSRecord.parse(sock.recv(2000))
        assert str(answer.short()) == ADDRESS
        assert answer.header.id == dnslib.DNSRecord.parse(QUERY).header.id
        assert peer.queries == [QUERY]
        assert peer.senders == [sock.getsockname()]


@pytest.mark.parametrize(
    "script", [dns_peer.wrong_id, dns_peer.other_question, dns_peer.echo, dns_peer.truncated]
)
def test_a_lie_is_one_datagram_that_parses_and_differs_from_the_truth(script: Script) -> None:
    (lie,), (truth,) = script(QUERY), dns_peer.right(QUERY)
    assert dnslib.DNSRecord.parse(lie)
    assert lie != truth


def test_the_other_case_is_the_same_name_in_other_letters() -> None:
    (changed,), (truth,) = dns_peer.other_case(QUERY), dns_peer.right(QUERY)
    assert changed != truth
    assert changed.lower() == truth.lower()
    assert b"\x03WWW\x07EXAMPLE\x04TEST\x00" in changed


def test_scripts_compose() -> None:
    script = after(1, dns_peer.silent, both(dns_peer.garbage, both(cut(20), refuses(5))))
    assert script(QUERY) == []
    *garbage, short, refused = script(QUERY)
    assert len(garbage) == 3
    assert len(short) == 20
    assert dnslib.DNSRecord.parse(refused).header.rcode == 5


def test_a_held_answer_comes_when_it_is_released() -> None:
    with DnsPeer(held=True) as peer, ask(peer.address) as sock:
        peer.wait_for_queries(1)
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(2000)
        sock.settimeout(5)
        peer.release()
        assert sock.recv(2000)


def test_a_dns_peer_speaks_tcp_if_it_is_told_to() -> None:
    with DnsPeer(tcp=dns_peer.right) as peer:
        host, _, port = peer.address.rpartition(":")
        with socket.create_connection((host, int(port)), 5) as sock, sock.makefile("rb") as stream:
            sock.sendall(len(QUERY).to_bytes(2, "big") + QUERY)
            answer = stream.read(int.from_bytes(stream.read(2), "big"))
        assert str(dnslib.DNSRecord.parse(answer).short()) == ADDRESS
        assert (peer.queries, peer.tcp_queries) == ([], [QUERY])


def test_a_closed_port_refuses_udp() -> None:
    with ask(closed_port()) as sock, pytest.raises(ConnectionRefusedError):
        sock.recv(1)


def test_a_tcp_peer_echoes_messages_however_they_are_cut() -> None:
    with (
        no_leak(),
        TcpPeer(tcp_peer.echo_until(b"\n")) as peer,
        dial(peer) as sock,
        sock.makefile("rb") as stream,
    ):
        sock.sendall(b"one\ntw")
        assert stream.readline() == b"one\n"
        sock.sendall(b"o\n")
        assert stream.readline() == b"two\n"
        assert (peer.accepted, peer.open, peer.received) == (1, 1, b"one\ntwo\n")


def test_a_tcp_peer_closes_mid_answer_or_resets() -> None:
    with TcpPeer(tcp_peer.answers(b"half an ans")) as peer, dial(peer) as sock:
        sock.sendall(b"go\n")
        assert sock.makefile("rb").read() == b"half an ans"
        peer.wait_all_closed()
    with TcpPeer(tcp_peer.resets_after(b"")) as peer, dial(peer) as sock:
        sock.sendall(b"go\n")
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


def test_a_dripping_peer_waits_for_each_word() -> None:
    with TcpPeer(tcp_peer.drips(b"abc")) as peer, dial(peer) as sock:
        sock.sendall(b"go\n")
        assert sock.recv(10) == b"a"
        peer.go.release()
        assert sock.recv(10) == b"b"


def test_a_flood_does_not_end_by_itself_but_with_the_peer() -> None:
    with no_leak(), TcpPeer(tcp_peer.floods) as peer, dial(peer) as sock, sock.makefile("rb") as stream:
        sock.sendall(b"go")
        assert len(stream.read(1 << 20)) == 1 << 20


def test_a_peer_that_never_answers_is_released_by_its_end() -> None:
    with no_leak(), TcpPeer(tcp_peer.never_answers) as peer, dial(peer) as sock:
        sock.sendall(b"hello")
        wait_until(lambda: peer.received == b"hello")


def test_a_leak_is_seen() -> None:
    with pytest.raises(AssertionError, match="before"), no_leak(timeout_s=0.05):
        leaked = socket.socket()
    leaked.close()


def test_waiting_ends_with_what_was_waited_for() -> None:
    with pytest.raises(AssertionError, match="the moon"):
        wait_until(lambda: None, 0.01, "the moon")
