"""TLS under a protocol: against OpenSSL's server side in memory, whole and byte by byte."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from reqpool_contract.errors import BadResponse, ConnectFailed, ConnectionLost, UsageError
from reqpool_workers.protocols import READY, Event, StreamProtocol
from reqpool_workers.protocols.tls_engine import RECORD_BYTES, TlsEngine
from reqpool_workers.protocols.tls_stream import wrap
from support import certificates as certs
from support.certificates import Certificates, Pair

V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3

Cut = Callable[[bytes], list[bytes]]


def whole(data: bytes) -> list[bytes]:
    return [data] if data else []


def bytewise(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certs.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(params=[whole, bytewise])
def cut(request: pytest.FixtureRequest) -> Cut:
    found: Cut = request.param
    return found


@pytest.fixture
def trusting(made: Certificates) -> dict[str, Any]:
    return {"ca": made.ca.read_text()}


def own(pair: Pair) -> dict[str, str]:
    """Settings of a client certificate."""
    return {"cert": pair.cert.read_text(), "key": pair.key.read_text()}


class Server:
    """OpenSSL's server side, in memory."""

    def __init__(
        self,
        pair: Pair,
        *,
        client_ca: Path | None = None,
        versions: tuple[ssl.TLSVersion, ssl.TLSVersion] = (V12, V13),
        alpn: Sequence[str] = (),
    ) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version, context.maximum_version = versions
        context.load_cert_chain(*pair)
        if client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(client_ca)
        if alpn:
            context.set_alpn_protocols(list(alpn))
        context.sni_callback = self._on_server_name
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.server_names: list[str | None] = []
        self.established = False
        self.closed = False
        self._closing = False
        self.received = b""
        self.error: ssl.SSLError | None = None

    def take(self, data: bytes) -> bytes:
        """Take the client's bytes, return what is sent in turn."""
        self._incoming.write(data)
        try:
            if self._closing:
                self.object.unwrap()
                self.closed = True
                return b""
            if not self.established:
                self.object.do_handshake()
                self.established = True
            while more := self.object.read(1 << 16):
                self.received += more
            self.closed = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self.error = error
        return self._outgoing.read()

    def say(self, data: bytes) -> bytes:
        view = memoryview(data)
        while view:
            view = view[self.object.write(view) :]
        return self._outgoing.read()

    def close_notify(self) -> bytes:
        self._closing = True
        with contextlib.suppress(ssl.SSLWantReadError):
            self.object.unwrap()
        return self._outgoing.read()

    def _on_server_name(self, _object: Any, name: str | None, _context: Any) -> None:
        self.server_names.append(name)


class Plain:
    """A server that says what it is told, whatever comes."""

    def __init__(self, said: bytes) -> None:
        self._said = said

    def take(self, _data: bytes) -> bytes:
        said, self._said = self._said, b""
        return said


def converse(tls: TlsEngine, server: Server | Plain, cut: Cut = whole) -> bytes:
    """Shake hands; return what the server said meanwhile.

    The client's last flight may make the server answer once more: tickets, or its refusal.
    """
    plaintext = b""
    to_server = tls.start()
    while to_server:
        to_client, to_server = server.take(to_server), b""
        for piece in cut(to_client):
            more, reply = tls.feed(piece)
            plaintext += more
            to_server += reply
    return plaintext


def connect(server: Server, settings: dict[str, Any], host: str = "localhost", cut: Cut = whole) -> TlsEngine:
    tls = TlsEngine(settings, host)
    assert converse(tls, server, cut) == b""
    assert tls.established
    assert server.established
    return tls


def refusal(
    server: Server | Plain, settings: dict[str, Any], host: str = "localhost", cut: Cut = whole
) -> str:
    """Return the text of the ConnectFailed that a handshake ends with."""
    with pytest.raises(ConnectFailed) as caught:
        converse(TlsEngine(settings, host), server, cut)
    return caught.value.text


# --- what works -----------------------------------------------------------------------------------


@pytest.mark.parametrize("versions", [(V12, V12), (V13, V13)])
def test_bytes_pass_both_ways(made: Certificates, trusting: dict[str, Any], cut: Cut, versions: Any) -> None:
    server = Server(made.server, versions=versions)
    tls = connect(server, trusting, cut=cut)
    assert server.server_names == ["localhost"]
    server.take(tls.encrypt(b"question"))
    assert server.received == b"question"
    got = b"".join(tls.feed(piece)[0] for piece in cut(server.say(b"answer")))
    assert got == b"answer"
    assert not tls.closed


def test_many_records_pass_both_ways(made: Certificates, trusting: dict[str, Any]) -> None:
    server = Server(made.server)
    tls = connect(server, trusting)
    data = bytes(range(256)) * (RECORD_BYTES // 256 * 9) + b"end"
    server.take(tls.encrypt(data))
    assert server.received == data
    assert tls.feed(server.say(data)) == (data, b"")
    assert tls.encrypt(b"") == b""


def test_several_records_in_one_read_come_out_together(made: Certificates, trusting: dict[str, Any]) -> None:
    server = Server(made.server)
    tls = connect(server, trusting)
    ciphertext = server.say(b"one") + server.say(b"two")
    third = server.say(b"three")
    assert tls.feed(ciphertext + third[:7])[0] == b"onetwo"
    assert tls.feed(third[7:])[0] == b"three"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_an_address_is_looked_for_among_the_addresses(
    made: Certificates, trusting: dict[str, Any], host: str
) -> None:
    server = Server(made.ip_only)
    connect(server, trusting, host)
    assert server.server_names == [None]  # SNI has names only (RFC 6066 §3)


def test_a_wildcard_matches_one_label(made: Certificates, trusting: dict[str, Any]) -> None:
    connect(Server(made.server), trusting, "a.service.test")
    assert "not for a.b.service.test" in refusal(Server(made.server), trusting, "a.b.service.test")


def test_server_name_takes_the_place_of_the_host(made: Certificates, trusting: dict[str, Any]) -> None:
    server = Server(made.server)
    connect(server, {**trusting, "server_name": "x.service.test"}, "192.0.2.1")
    assert server.server_names == ["x.service.test"]


def test_any_certificate_is_taken_without_verification(made: Certificates) -> None:
    for pair in (made.expired, made.wrong_name, made.stranger, made.self_signed):
        server = Server(pair)
        connect(server, {"verify": False})
        assert server.server_names == ["localhost"]


def test_a_self_signed_certificate_is_trusted_when_given(made: Certificates) -> None:
    connect(Server(made.self_signed), {"ca": made.self_signed.cert.read_text()})


@pytest.mark.parametrize("version", [V12, V13])
def test_a_client_certificate_is_shown(made: Certificates, trusting: dict[str, Any], version: Any) -> None:
    server = Server(made.server, client_ca=made.ca, versions=(version, version))
    connect(server, {**trusting, **own(made.client)})
    subject = server.object.getpeercert()
    assert subject is not None
    assert subject["subject"] == ((("commonName", "client"),),)


def test_certificate_and_key_may_be_one_text(made: Certificates, trusting: dict[str, Any]) -> None:
    server = Server(made.server, client_ca=made.ca)
    connect(server, {**trusting, "cert": "".join(own(made.client).values())})


def test_alpn_is_offered(made: Certificates, trusting: dict[str, Any]) -> None:
    server = Server(made.server, alpn=["h2", "http/1.1"])
    converse(TlsEngine(trusting, "localhost", alpn=["http/1.1"]), server)
    assert server.object.selected_alpn_protocol() == "http/1.1"


# --- what does not --------------------------------------------------------------------------------


def test_expired(made: Certificates, trusting: dict[str, Any], cut: Cut) -> None:
    text = refusal(Server(made.expired), trusting, cut=cut)
    assert text.startswith("the server's certificate has expired: ")
    assert text.endswith(" GMT")


def test_not_yet_valid(made: Certificates, trusting: dict[str, Any], cut: Cut) -> None:
    text = refusal(Server(made.future), trusting, cut=cut)
    assert text.startswith("the server's certificate is not yet valid, only from ")


def test_for_another_name(made: Certificates, trusting: dict[str, Any], cut: Cut) -> None:
    assert refusal(Server(made.wrong_name), trusting, cut=cut) == (
        "the server's certificate is not for localhost but for somebody.else.test, *.else.test"
    )


def test_for_a_name_when_an_address_is_dialled(made: Certificates, trusting: dict[str, Any]) -> None:
    assert refusal(Server(made.wrong_name), trusting, "127.0.0.1") == (
        "the server's certificate is not for 127.0.0.1 but for somebody.else.test, *.else.test"
    )


def test_for_addresses_when_a_name_is_dialled(made: Certificates, trusting: dict[str, Any]) -> None:
    text = refusal(Server(made.ip_only), trusting)
    assert text == "the server's certificate is not for localhost but for 127.0.0.1, ::1"


@pytest.mark.parametrize(("which", "host"), [("common_name", "localhost"), ("common_address", "127.0.0.1")])
def test_a_common_name_is_not_believed(
    made: Certificates, trusting: dict[str, Any], which: str, host: str
) -> None:
    text = refusal(Server(getattr(made, which)), trusting, host)
    assert text.startswith(f"the server's certificate is not for {host}, it has no subjectAltName")


def test_a_partial_wildcard_matches_nothing(made: Certificates, trusting: dict[str, Any]) -> None:
    assert "is not for localhost but for local*, *" in refusal(Server(made.partial), trusting)


def test_unknown_authority(made: Certificates, trusting: dict[str, Any], cut: Cut) -> None:
    text = refusal(Server(made.stranger), trusting, cut=cut)
    assert "from an unknown authority (somebody's authority)" in text


def test_the_systems_authorities_are_the_default(made: Certificates) -> None:
    assert "unknown authority (reqpool test authority)" in refusal(Server(made.server), {})


def test_self_signed(made: Certificates, trusting: dict[str, Any], cut: Cut) -> None:
    assert "is self-signed" in refusal(Server(made.self_signed), trusting, cut=cut)


@pytest.mark.parametrize(
    "said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"-ERR unknown command\r\n", b"\x4a\x00\x00\x00\x0a5.5.5"]
)
def test_not_tls_at_all(trusting: dict[str, Any], said: bytes, cut: Cut) -> None:
    assert "does not speak TLS: its first bytes are" in refusal(Plain(said), trusting, cut=cut)


def test_what_only_begins_like_tls(trusting: dict[str, Any]) -> None:
    assert "the server does not speak TLS" in refusal(Plain(b"\x16" + b"no TLS at all" * 10), trusting)


def test_no_version_in_common(made: Certificates, trusting: dict[str, Any], cut: Cut) -> None:
    # An alert says it: Debian's OpenSSL would not let the server side speak TLS 1.1.
    server = Plain(b"\x15\x03\x01\x00\x02\x02\x46")  # fatal, protocol_version
    text = refusal(server, trusting, cut=cut)
    assert text == "no TLS version in common: the server does not support 1.2 or newer"


def test_the_server_does_not_know_the_name(trusting: dict[str, Any]) -> None:
    server = Plain(b"\x15\x03\x03\x00\x02\x02\x70")  # fatal, unrecognized_name
    assert "no certificate for localhost" in refusal(server, trusting)


def test_no_protocol_in_common(trusting: dict[str, Any]) -> None:
    tls = TlsEngine(trusting, "localhost", alpn=["http/1.1"])
    tls.start()
    with pytest.raises(ConnectFailed, match="no application protocol in common"):
        tls.feed(b"\x15\x03\x03\x00\x02\x02\x78")  # fatal, no_application_protocol


def test_a_client_certificate_is_missing_in_tls_1_2(
    made: Certificates, trusting: dict[str, Any], cut: Cut
) -> None:
    text = refusal(Server(made.server, client_ca=made.ca, versions=(V12, V12)), trusting, cut=cut)
    assert "it demands a client certificate" in text


def test_a_client_certificate_is_missing_in_tls_1_3(
    made: Certificates, trusting: dict[str, Any], cut: Cut
) -> None:
    # The handshake is over for the client when this comes.
    text = refusal(Server(made.server, client_ca=made.ca, versions=(V13, V13)), trusting, cut=cut)
    assert text == "the server demands a client certificate; give tls cert and key"


@pytest.mark.parametrize("version", [V12, V13])
def test_a_client_certificate_is_refused(made: Certificates, trusting: dict[str, Any], version: Any) -> None:
    server = Server(made.server, client_ca=made.ca, versions=(version, version))
    text = refusal(server, {**trusting, **own(made.stranger_client)})
    assert text.startswith("the server refuses our client certificate: ")
    assert "does not know the authority" in text


def test_the_server_goes_during_the_handshake(trusting: dict[str, Any]) -> None:
    tls = TlsEngine(trusting, "localhost")
    tls.start()
    with pytest.raises(ConnectFailed, match="closed the connection during the TLS handshake"):
        tls.eof()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"ca": "no certificate"}, "tls ca"),
        ({"ca": b"bytes"}, "tls ca: PEM text is expected, not bytes"),
        ({"cert": "no certificate"}, "tls cert"),
        ({"server_name": ".dots"}, "is not a server name"),
        ({"server_name": "x" * 64 + ".test"}, "is not a server name"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        TlsEngine(settings, "localhost")


def test_a_key_of_another_certificate(made: Certificates) -> None:
    with pytest.raises(UsageError, match="the key does not belong to the certificate"):
        TlsEngine({"cert": made.client.cert.read_text(), "key": made.server.key.read_text()}, "localhost")


def test_an_encrypted_key(made: Certificates) -> None:
    with pytest.raises(UsageError, match="the key is encrypted"):
        TlsEngine(own(made.encrypted_client), "localhost")


# --- the end --------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [V12, V13])
def test_close_notify_is_heard_and_answered(
    made: Certificates, trusting: dict[str, Any], cut: Cut, version: Any
) -> None:
    server = Server(made.server, versions=(version, version))
    tls = connect(server, trusting)
    plaintext = to_server = b""
    for piece in cut(server.say(b"last words") + server.close_notify()):
        more, reply = tls.feed(piece)
        plaintext += more
        to_server += reply
    assert plaintext == b"last words"
    assert tls.closed
    server.take(to_server)
    assert server.closed
    assert tls.feed(b"whatever") == (b"", b"")
    assert tls.encrypt(b"too late") == b""
    tls.eof()


def test_the_end_without_close_notify_is_a_loss(made: Certificates, trusting: dict[str, Any]) -> None:
    tls = connect(Server(made.server), trusting)
    with pytest.raises(ConnectionLost, match="without TLS's close_notify"):
        tls.eof()


def test_a_changed_byte_is_a_bad_response(made: Certificates, trusting: dict[str, Any]) -> None:
    server = Server(made.server)
    tls = connect(server, trusting)
    record = bytearray(server.say(b"answer"))
    record[-1] ^= 1
    with pytest.raises(BadResponse, match="the peer's TLS is broken"):
        tls.feed(bytes(record))


# --- under a protocol -----------------------------------------------------------------------------


class Lines(StreamProtocol):
    """Greeting, then one line back for each request; a rest at the peer's end is an answer, too."""

    def __init__(self, greeting: bytes = b"") -> None:
        self.greeting = greeting
        self.rest = b""
        self.ended = False
        self.usable = True

    def connected(self) -> Sequence[Event]:
        return [self.greeting, b"!", READY] if self.greeting else [READY]

    def send(self, request: Any) -> bytes:
        data: bytes = request
        return data

    def feed(self, data: bytes) -> Sequence[Event]:
        *lines, self.rest = (self.rest + data).split(b"\n")
        return [b"pong" if line == b"ping" else (0, line) for line in lines]

    def eof(self) -> Sequence[Event]:
        self.ended = True
        return [(0, self.rest)] if self.rest else []

    @property
    def reusable(self) -> bool:
        return self.usable

    @property
    def begun(self) -> bool:
        return bool(self.rest)

    def hold(self) -> Sequence[Event]:
        return [b"hold", READY]

    def release(self) -> Sequence[Event] | None:
        return [b"release", READY] if self.usable else None


class Talk:
    """A wrapped protocol and the server's side of it."""

    def __init__(self, made: Certificates, inner: Lines, cut: Cut = whole) -> None:
        self.server = Server(made.server)
        self.stream = wrap(inner, {"ca": made.ca.read_text()}, "localhost")
        self.cut = cut
        self.events: list[Event] = []
        self.handle(self.stream.connected())

    def handle(self, events: Sequence[Event]) -> None:
        """Do as the core does: send bytes at once, note all else."""
        for event in events:
            if type(event) is bytes:
                self.say(self.server.take(event))
            else:
                self.events.append(event)

    def say(self, ciphertext: bytes) -> None:
        for piece in self.cut(ciphertext):
            self.handle(self.stream.feed(piece))

    def ask(self, request: bytes) -> None:
        self.handle([self.stream.send(request)])


def test_a_protocol_begins_after_the_handshake(made: Certificates, cut: Cut) -> None:
    talk = Talk(made, Lines(b"hello"), cut)
    assert talk.events == [READY]
    assert talk.server.received == b"hello!"
    talk.ask(b"question")
    assert talk.server.received == b"hello!question"
    talk.say(talk.server.say(b"one\ntwo\nthr"))
    assert talk.events == [READY, (0, b"one"), (0, b"two")]
    assert talk.stream.begun
    assert talk.stream.reusable


def test_bytes_of_a_protocol_go_before_its_answers(made: Certificates) -> None:
    # The core asks the next request when it sees an answer: what was encrypted before must have gone by then.
    talk = Talk(made, Lines())
    first, *others = talk.stream.feed(talk.server.say(b"one\nping\ntwo\nping\n"))
    assert others == [(0, b"one"), (0, b"two")]
    talk.handle([first, talk.stream.send(b"next")])
    assert talk.server.received == b"pongpongnext"


def test_hold_and_release_are_the_inner_protocols(made: Certificates) -> None:
    inner = Lines()
    talk = Talk(made, inner)
    talk.handle(talk.stream.hold())
    talk.handle(talk.stream.release() or [])
    assert talk.server.received == b"holdrelease"
    assert talk.events == [READY, READY, READY]
    inner.usable = False
    assert talk.stream.release() is None
    assert not talk.stream.reusable


def test_close_notify_ends_a_body_without_length(made: Certificates, cut: Cut) -> None:
    inner = Lines()
    talk = Talk(made, inner, cut)
    talk.say(talk.server.say(b"body") + talk.server.close_notify())
    assert talk.events == [READY, (0, b"body")]
    assert inner.ended
    assert talk.server.closed
    assert not talk.stream.reusable
    assert talk.stream.eof() == []


def test_a_cut_off_body_without_length_is_lost(made: Certificates) -> None:
    inner = Lines()
    talk = Talk(made, inner)
    talk.say(talk.server.say(b"body"))
    with pytest.raises(ConnectionLost, match="without TLS's close_notify"):
        talk.stream.eof()
    assert not inner.ended


def test_an_idle_connection_ends_with_close_notify(made: Certificates) -> None:
    # Its FIN may come later, and until then the next request must not be sent on it.
    inner = Lines()
    talk = Talk(made, inner)
    ciphertext = talk.server.close_notify()
    with pytest.raises(ConnectionLost, match="closed the connection"):
        talk.stream.feed(ciphertext)
    assert inner.ended
    assert not talk.stream.reusable
