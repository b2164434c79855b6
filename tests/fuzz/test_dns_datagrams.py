"""Invariant: whatever comes, a request is open until it was answered, and then it is not."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from reqpool.kinds.dns import KIND
from reqpool_workers.protocols import Ask, Then
from reqpool_workers.protocols.dns import DnsDatagrams, WithoutEdns
from support import dns_peer

QUERY = KIND.encode("192.0.2.1", "www.example.test")[1]
ANSWERS = [dns_peer.right, dns_peer.truncated, *map(dns_peer.refuses, range(6)), dns_peer.refuses_in_short(5)]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(ANSWERS),
            st.lists(st.tuples(st.integers(2, 80), st.integers(0, 255)), max_size=3),
            st.integers(0, 80),
        ),
        max_size=8,
    )
)
def test_a_request_is_open_until_it_is_answered(said: list[tuple[dns_peer.Script, Any, int]]) -> None:
    protocol = DnsDatagrams("dns://192.0.2.1:53", 0.0, WithoutEdns())
    request = Ask()
    request.payload = QUERY
    sent = protocol.ask(request)
    for script, changes, cut in said:
        datagram = bytearray(script(sent)[0])
        for at, octet in changes:
            if at < len(datagram):
                datagram[at] = octet
        found = protocol.feed(bytes(datagram[: len(datagram) - cut % 40]))
        if found is None:
            assert list(protocol.open_requests) == [request]
            continue
        assert found[0] is request
        if found[1] is not Then.AGAIN:
            assert not protocol.open_requests
            assert protocol.feed(bytes(datagram)) is None
            return
        assert list(protocol.open_requests) == [request]
        assert sent[11] == 1  # it had an OPT
        sent = protocol.again(request, 0)
        assert sent[11] == 0
    protocol.forget(request)
    assert not protocol.open_requests
