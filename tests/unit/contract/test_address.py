from __future__ import annotations

import pytest

from reqpool_contract import name_servers
from reqpool_contract.address import canonical_address
from reqpool_contract.errors import UsageError
from reqpool_contract.name_servers import FALLBACK


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("127.0.0.1:53", "127.0.0.1:53"),
        ("127.0.0.1:65535", "127.0.0.1:65535"),
        ("[::1]:5300", "[::1]:5300"),
        ("[0:0:0:0:0:0:0:1]:5300", "[::1]:5300"),
        ("[2001:DB8::1]:1", "[2001:db8::1]:1"),
        ("localhost:80", "127.0.0.1:80"),
        ("LOCALHOST:80", "127.0.0.1:80"),
    ],
)
def test_an_upstream_has_one_spelling(text: str, canonical: str) -> None:
    assert canonical_address(text) == canonical
    assert canonical_address(canonical) == canonical


@pytest.mark.parametrize(
    ("text", "canonical"),
    [("9.9.9.9", "9.9.9.9:53"), ("::1", "[::1]:53"), ("[::1]", "[::1]:53"), ("9.9.9.9:5", "9.9.9.9:5")],
)
def test_a_default_port_fills_in(text: str, canonical: str) -> None:
    assert canonical_address(text, 53) == canonical


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("127.0.0.1", "has no port"),
        ("[::1]", "has no port"),
        ("127.0.0.1:", "the port in"),
        ("127.0.0.1:0", "the port in '127.0.0.1:0'"),
        ("127.0.0.1:65536", "the port in '127.0.0.1:65536'"),
        ("127.0.0.1:-1", "the port in"),
        ("127.0.0.1:5３", "1 to 65535"),
        ("127.0.0.1:" + "9" * 5000, "1 to 65535"),
        ("127.0.0.1:http", "the port in"),
        (":53", "has no host"),
        ("", "has no host"),
        ("256.0.0.1:53", "not an IPv4 address"),
        ("1.2.3:53", "not an IPv4 address"),
        ("::1:53:", "not an IPv6 address"),
        ("[::1:53", "unmatched bracket"),
        ("[::1]53", "unmatched bracket"),
        ("[1.2.3.4]:53", "brackets are for IPv6"),
        ("example.com:80", "does not accept host names"),
        ("tcp://127.0.0.1:80", "is a URL"),
        (("127.0.0.1", 53), "not tuple"),
        (b"127.0.0.1:53", "not bytes"),
        (None, "not NoneType"),
    ],
)
def test_a_bad_address_is_named_with_the_way_out(text: object, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        canonical_address(text)
    assert says in str(caught.value)


# --- resolv.conf ---------------------------------------------------------------------------------


def test_resolv_conf_is_read_as_glibc_does() -> None:
    text = """
    # comment
    ; nameserver 9.9.9.8
    nameserver 10.0.0.1
    nameserver\t2001:db8::53 # trailing words are ignored
    search example.com
    nameserver not-an-address
    nameserver fe80::1%eth0
    nameserver 10.0.0.4
    """
    assert name_servers.parse(text) == ("10.0.0.1:53", "[2001:db8::53]:53", "[fe80::1%eth0]:53")


@pytest.mark.parametrize("text", ["", "search example.com\n", "nameserver\n", "nameserver nonsense\n"])
def test_no_nameserver_line_means_the_local_machine(text: str) -> None:
    assert name_servers.parse(text) == FALLBACK


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("Example.COM:80", "example.com:80"),
        ("example.com.:80", "example.com.:80"),
        ("bücher.example:80", "xn--bcher-kva.example:80"),
        ("localhost:80", "127.0.0.1:80"),
        ("[::1]:80", "[::1]:80"),
    ],
)
def test_a_host_name_has_one_spelling_where_names_are_taken(text: str, canonical: str) -> None:
    assert canonical_address(text, names=True) == canonical


@pytest.mark.parametrize("text", ["1.2.3:80", "a b:80", "a..example:80", f"{'a' * 64}:80"])
def test_what_is_no_host_name_is_refused_where_names_are_taken(text: str) -> None:
    with pytest.raises(UsageError, match=r"is not (a host name|an IPv4)"):
        canonical_address(text, names=True)
