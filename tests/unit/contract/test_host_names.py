"""Host names and addresses: one spelling each, that of browsers."""

from __future__ import annotations

from typing import Any

import pytest

from reqpool.kinds import dns, http, mysql, redis, tcp, udp
from reqpool_contract.address import canonical_address
from reqpool_contract.errors import UsageError
from reqpool_contract.host_names import as_served, canonical_host
from reqpool_contract.tls_settings import Tls

ZONED = "fe80::1%eth0"


def dialled(url: str) -> str:
    """The origin of whatever kind a URL is of."""
    scheme = url.partition(":")[0]
    if scheme == "http":
        return http.KIND.encode(url, "GET")[0].origins[0]
    if scheme == "redis":
        return redis.KIND.encode(url, ("PING",))[0].origins[0]
    return mysql.KIND.encode(url, "SELECT 1")[0].origins[0]


@pytest.mark.parametrize(
    ("host", "canonical"),
    [
        ("straße.test", "xn--strae-oqa.test"),
        ("faß.de", "xn--fa-hia.de"),
        ("GROẞ.test", "xn--gro-7ka.test"),
        ("βόλος.com", "xn--nxasmm1c.com"),
        ("نامه\u200cای.com", "xn--mgba3gch31f060k.com"),
        ("Bücher.Example", "xn--bcher-kva.example"),
        ("例え。テスト", "xn--r8jz45g.xn--zckzah"),
        ("日本\uff0ejp", "xn--wgv71a.jp"),
        ("日本\uff61jp", "xn--wgv71a.jp"),
        ("ＡＢ.test", "ab.test"),
        ("a\u00adb.test", "ab.test"),
        ("☕.test", "xn--53h.test"),
        ("_x.straße.test", "_x.xn--strae-oqa.test"),
        ("XN--strae-oqa.TEST", "xn--strae-oqa.test"),
        ("xn--a.test", "xn--a.test"),
        ("xn--.test", "xn--.test"),
        ("ü.xn--a.test", "xn--tda.xn--a.test"),
    ],
)
def test_names_in_other_scripts_are_those_of_browsers(host: str, canonical: str) -> None:
    assert canonical_host(host) == canonical
    assert canonical_host(canonical) == canonical
    assert dialled(f"http://{host}/") == f"http://{canonical}:80"
    assert dialled(f"redis://{host}") == f"redis://{canonical}:6379/0"
    assert dialled(f"mysql://me@{host}/") == f"mysql://me@{canonical}:3306/"
    assert tcp.KIND.encode(f"{host}:7", b"")[0].origins == (f"tcp://{canonical}:7",)
    assert Tls(server_name=host).settings() == {"server_name": canonical}
    wire = b"".join(bytes((len(label),)) + label.encode() for label in canonical.split("."))
    assert dns.KIND.encode("127.0.0.1", host)[1][12:].lower().startswith(wire + b"\0")


@pytest.mark.parametrize(
    "host", ["a-.b.test", "-a.b.test", "a_b.test", "r3---sn-apo.test", "_", "-", "web.1", "a" * 63]
)
def test_labels_that_are_in_the_dns_are_taken(host: str) -> None:
    assert canonical_host(host) == host
    assert dialled(f"http://{host}/") == f"http://{host}:80"


@pytest.mark.parametrize(
    "host",
    [
        "",
        ".",
        "..",
        "a..b",
        ".a",
        "a..",
        "a" * 64,
        "ü" * 60,
        ".".join(["a" * 63] * 4),
        "a b",
        "a%41",
        "a*b",
        "a,b",
        "℀.test",
        "xn--ü.test",
        "\u200d.test",
        "👨\u200d👩.test",
        "\u0301a.test",
        "\ud800",
        "\u00ad",
        "a\0b",
        "ü\uff0fb",
        "٣.٣.٣.٣",
        "אa.test",
    ],
)
def test_what_browsers_refuse_is_refused(host: str) -> None:
    with pytest.raises(UsageError, match="is not a host name"):
        canonical_host(host)


@pytest.mark.parametrize("length", [253, 254])
def test_a_name_has_253_characters_and_a_final_dot(length: int) -> None:
    name = ".".join(["a" * 49] * 5) + "." + "b" * (length - 250)
    assert len(name) == length
    for host in (name, f"{name}."):
        if length == 253:
            assert canonical_host(host) == host
        else:
            with pytest.raises(UsageError):
                canonical_host(host)


def test_a_name_of_a_million_characters_is_refused_before_it_is_read() -> None:
    with pytest.raises(UsageError, match="it has 1000000 characters") as caught:
        canonical_host("\u00fc" * 1_000_000)
    assert len(str(caught.value)) < 200


# --- addresses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "127.1",
        "127.0.1",
        "0x7f.1",
        "0X7F.0.0.1",
        "0x7f000001",
        "2130706433",
        "017700000001",
        "0177.0.0.1",
        "127.0.0.01",
        "1.2.3.4.",
        "1.2.3.4.5",
        "256.1.1.1",
        "0x",
        "１２７.1",
    ],
)
def test_what_some_readers_take_for_an_address_is_refused(host: str) -> None:
    with pytest.raises(UsageError, match="is not an IPv4 address: write four decimal numbers"):
        canonical_host(host)
    with pytest.raises(UsageError):
        dialled(f"http://{host}/")
    for names in (False, True):
        with pytest.raises(UsageError):
            canonical_address(f"{host}:80", names=names)


def test_an_address_in_wide_digits_is_that_address() -> None:
    assert canonical_host("１２７.０.０.１") == "127.0.0.1"
    assert dialled("http://１２７。0。0。1/") == "http://127.0.0.1:80"


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("fe80::1%eth0", ZONED),
        ("fe80::1%25eth0", ZONED),
        ("FE80:0:0::1%25eth0", ZONED),
        ("fe80::1%25%65th0", ZONED),
        ("fe80::1%eth0.100", "fe80::1%eth0.100"),
        ("fe80::1%25eth%2E1", "fe80::1%eth.1"),
        ("fe80::1%Eth0", "fe80::1%Eth0"),
        ("fe80::1%2", "fe80::1%2"),
        ("fe80::1%25", "fe80::1%25"),
        ("ff02::fb%eth0", "ff02::fb%eth0"),
        ("::1%lo", "::1"),
        ("2001:db8::1%25eth0", "2001:db8::1"),
    ],
)
def test_a_zone_is_written_in_one_way_in_every_kind(text: str, canonical: str) -> None:
    assert canonical_host(text) == canonical
    assert dialled(f"http://[{text}]:8080/") == f"http://[{canonical}]:8080"
    assert dialled(f"redis://[{text}]:1/0") == f"redis://[{canonical}]:1/0"
    assert dialled(f"mysql://me@[{text}]:1/") == f"mysql://me@[{canonical}]:1/"
    for kind in (tcp.KIND, udp.KIND):
        assert kind.encode(f"[{text}]:7", b"")[0].origins == (f"{kind.name}://[{canonical}]:7",)
    for server in (f"[{text}]:5300", f"[{text}]", text):
        port = 5300 if "]:" in server else 53
        assert dns.KIND.encode(server, "a.test")[0].origins == (f"dns://[{canonical}]:{port}",)
    for kind, url in ((udp.KIND, "udp"), (tcp.KIND, "tcp"), (dns.KIND, "dns")):
        assert kind.endpoint(f"{url}://[{text}]:7").origin == f"{url}://[{canonical}]:7"


@pytest.mark.parametrize(
    "text", ["fe80::1%", "fe80::1%a/b", "fe80::1%a b", "fe80::1%" + "x" * 16, "1.2.3.4%eth0", "::g"]
)
def test_what_is_no_scoped_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        canonical_host(text)
    with pytest.raises(UsageError):
        canonical_address(f"[{text}]:7", names=True)


def test_the_server_hears_neither_the_zone_nor_the_final_dot() -> None:
    def host_field(url: str) -> bytes:
        (line,) = [
            line for line in http.KIND.encode(url, "GET")[1].split(b"\r\n") if line.startswith(b"Host: ")
        ]
        return line

    assert host_field("http://[fe80::1%25eth0]:8080/") == b"Host: [fe80::1]:8080"
    assert host_field("http://[fe80::1%eth0]/") == b"Host: [fe80::1]"
    assert host_field("http://h.test.:8080/") == b"Host: h.test:8080"
    assert Tls(server_name="H.test.").settings() == {"server_name": "h.test"}
    assert [as_served(host) for host in ("h.", "fe80::1%eth0", "::1", "h")] == ["h", "fe80::1", "::1", "h"]


def test_a_name_with_a_final_dot_is_another_upstream() -> None:
    assert dialled("http://db./") == "http://db.:80"
    assert dialled("http://db/") == "http://db:80"
    assert tcp.KIND.encode("db.:7", b"")[0].origins == ("tcp://db.:7",)


# --- brackets ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place",
    [
        "evil.test[::1]:1",
        "[::1]evil.test:1",
        "evil.test[::1]",
        "[[::1]]:1",
        "[::1",
        "::1]",
        "[]",
        "[]:1",
        "[evil.test]:1",
        "[127.0.0.1]:1",
        "[::1]:1:1",
        "[::1][::2]:1",
        "[::1%25[::2]]:1",
        "[v1.fe80::a]:1",
    ],
)
def test_brackets_stand_around_a_whole_address_and_nowhere_else(place: str) -> None:
    for url in (f"http://{place}/", f"redis://{place}", f"mysql://me@{place}/"):
        with pytest.raises(UsageError):
            dialled(url)
    for kind in (tcp.KIND, udp.KIND, dns.KIND):
        encode: Any = kind.encode
        with pytest.raises(UsageError):
            encode(place, "a.test" if kind is dns.KIND else b"")
