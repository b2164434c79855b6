"""The log-in of mysql, against a server's half that computes by itself. No server."""

from __future__ import annotations

import hashlib
import ssl
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from reqpool_contract.errors import BadResponse, ConnectFailed, PoolError, UsageError
from reqpool_workers.protocols import READY, StreamProtocol, mysql
from reqpool_workers.protocols.mysql_login import MAX_STEPS
from support import mysql_peer as peer
from support.certificates import Certificates, make

PASSWORD = b"pa\xc3\xb6ss"
OTHER_SALT = b"ABCDEFGHIJKLMNOPQRST"
NATIVE, SHA2 = b"mysql_native_password", b"caching_sha2_password"


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def key() -> peer.RsaKey:
    return peer.RsaKey()


class Conversation:
    """The worker half on one side, what a test lets the server say on the other.

    Attributes:
        sent: what the client has sent and the test has not read yet, decrypted where TLS is on.
        ready: did the handshake end?
    """

    def __init__(self, origin: str = "mysql://me@h:1/db", *, step: int = 1 << 20, **settings: Any) -> None:
        self.protocol: StreamProtocol = mysql.protocol(origin, msgpack.packb(settings), 1 << 20)
        self.step = step
        self.sent = b""
        self.ready = False
        self.tls: ServerTls | None = None
        self._take(self.protocol.connected())

    def says(self, number: int, payload: bytes) -> None:
        """Let the server send a packet."""
        data = peer.packet(number, payload)
        self.feeds(data if self.tls is None else self.tls.encrypt(data))

    def feeds(self, data: bytes) -> None:
        """Let the server send bytes."""
        for at in range(0, len(data), self.step):
            self._take(self.protocol.feed(data[at : at + self.step]))

    def reads(self) -> tuple[int, bytes]:
        """Return the client's next packet: number and payload."""
        length = int.from_bytes(self.sent[:3], "little")
        number, payload = self.sent[3], self.sent[4 : 4 + length]
        assert len(payload) == length
        self.sent = self.sent[4 + length :]
        return number, payload

    def is_let_in(self, number: int) -> None:
        """Say OK, and OK again to the statement that makes the session ours."""
        self.says(number, peer.ok())
        assert self.reads()[0] == 0
        assert not self.ready
        self.says(1, peer.ok(tracked=peer.STATE))
        assert (self.ready, self.sent) == (True, b"")

    def starts_tls(self, pair: Any) -> None:
        """Go on in TLS, up to the end of its handshake."""
        self.tls = ServerTls(pair)
        while not self.tls.established:
            answer = self.tls.shake_hands(self.sent)
            self.sent = b""
            self.feeds(answer)
        self.sent = self.tls.decrypt(self.sent)

    def _take(self, events: Any) -> None:
        for event in events:
            if event is READY:
                self.ready = True
            elif self.tls is not None and self.tls.established:
                self.sent += self.tls.decrypt(event)
            else:
                assert isinstance(event, bytes)
                self.sent += event


class ServerTls:
    """A server's side of TLS, in memory."""

    def __init__(self, pair: Any) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*pair)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._in, self._out, server_side=True)
        self.established = False

    def shake_hands(self, data: bytes) -> bytes:
        self._in.write(data)
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            pass
        else:
            self.established = True
        return self._out.read()

    def encrypt(self, data: bytes) -> bytes:
        self._object.write(data)
        return self._out.read()

    def decrypt(self, data: bytes) -> bytes:
        self._in.write(data)
        return b"".join(self._records())

    def _records(self) -> Iterator[bytes]:
        while True:
            try:
                yield self._object.read()
            except ssl.SSLWantReadError:
                return


class Response:
    """A client's handshake response, taken apart."""

    def __init__(self, payload: bytes) -> None:
        self.capabilities, self.max_packet, self.collation = struct.unpack_from("<IIB", payload)
        self._rest = payload[32:]
        self.user = self._until_nul()
        self.reply = self._text()
        self.database = self._until_nul() if self.capabilities & peer.CONNECT_WITH_DB else None
        self.plugin = self._until_nul()
        self.attributes = self._text() if self.capabilities & peer.CONNECT_ATTRS else None
        assert self._rest == b""

    def _until_nul(self) -> bytes:
        value, _, self._rest = self._rest.partition(b"\0")
        return value

    def _text(self) -> bytes:
        value, self._rest = self._rest[1 : 1 + self._rest[0]], self._rest[1 + self._rest[0] :]
        return value


def greeted(conversation: Conversation, plugin: bytes = NATIVE, capabilities: int = peer.MODERN) -> Response:
    conversation.says(0, peer.greeting(capabilities, plugin))
    number, payload = conversation.reads()
    assert number == 1
    return Response(payload)


# --- what is agreed on -------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 1 << 20], ids=["byte by byte", "whole"])
def test_a_native_password_and_what_is_agreed_on(step: int) -> None:
    conversation = Conversation("mysql://m%40e@h:1/d%2Fb", step=step, password=PASSWORD.decode())
    response = greeted(conversation)
    assert (response.user, response.database, response.plugin) == (b"m@e", b"d/b", NATIVE)
    assert peer.knows_native(PASSWORD, peer.SALT, response.reply)
    assert response.collation == peer.UTF8MB4
    assert response.capabilities & peer.DEPRECATE_EOF
    assert response.capabilities & peer.SESSION_TRACK
    assert response.attributes is not None
    assert b"reqpool" in response.attributes
    for never in (peer.LOCAL_FILES, peer.MULTI_STATEMENTS, peer.SSL):
        assert not response.capabilities & never
    conversation.is_let_in(2)


def test_the_session_is_made_ours_in_one_statement() -> None:
    conversation = Conversation()
    greeted(conversation)
    conversation.says(2, peer.ok())
    number, payload = conversation.reads()
    assert (number, payload[:1]) == (0, b"\x03")
    assert payload.startswith(b"\x03SET NAMES utf8mb4, autocommit=1, ")
    assert b"session_track_state_change=1" in payload


def test_a_server_without_the_tracking_variables_is_asked_for_less() -> None:
    conversation = Conversation()
    greeted(conversation)
    conversation.says(2, peer.ok())
    conversation.reads()
    conversation.says(1, peer.err(1193, b"HY000", b"Unknown system variable"))
    assert conversation.reads() == (0, b"\x03SET NAMES utf8mb4, autocommit=1")
    conversation.says(1, peer.ok())
    assert conversation.ready


def test_an_old_server_is_asked_for_nothing_it_cannot_do() -> None:
    conversation = Conversation()
    response = greeted(conversation, capabilities=peer.OLD & ~(peer.CONNECT_ATTRS | peer.LENENC_AUTH))
    assert not response.capabilities & (peer.DEPRECATE_EOF | peer.SESSION_TRACK)
    assert response.attributes is None
    conversation.says(2, peer.ok())
    assert conversation.reads() == (0, b"\x03SET NAMES utf8mb4, autocommit=1")
    conversation.says(1, peer.ok())
    assert conversation.ready


def test_without_a_database_none_is_named() -> None:
    response = greeted(Conversation("mysql://me@h:1/"))
    assert response.database is None
    assert not response.capabilities & peer.CONNECT_WITH_DB


def test_without_a_password_the_reply_is_empty() -> None:
    for plugin in (NATIVE, SHA2):
        assert greeted(Conversation(), plugin).reply == b""


# --- caching_sha2_password ---------------------------------------------------------------------------


def test_caching_sha2_by_the_fast_path() -> None:
    conversation = Conversation(password=PASSWORD.decode())
    response = greeted(conversation, SHA2)
    assert response.plugin == SHA2
    assert peer.knows_caching_sha2(PASSWORD, peer.SALT, response.reply)
    conversation.says(2, b"\x01\x03")
    assert conversation.sent == b""
    conversation.is_let_in(3)


@pytest.mark.parametrize("step", [1, 1 << 20], ids=["byte by byte", "whole"])
def test_caching_sha2_in_full_hides_the_password_by_the_servers_key(step: int, key: peer.RsaKey) -> None:
    conversation = Conversation(step=step, password=PASSWORD.decode())
    greeted(conversation, SHA2)
    conversation.says(2, b"\x01\x04")
    assert conversation.reads() == (3, b"\x02")
    conversation.says(4, b"\x01" + key.pem)
    number, reply = conversation.reads()
    assert (number, key.password(reply, peer.SALT)) == (5, PASSWORD + b"\0")
    assert PASSWORD not in reply
    conversation.is_let_in(6)


def test_caching_sha2_in_full_sends_the_password_over_tls(certificates: Certificates) -> None:
    conversation = Conversation(
        "mysql://me@localhost:1/db?tls", password=PASSWORD.decode(), tls={"ca": certificates.ca.read_text()}
    )
    over_tls(conversation, certificates.server, SHA2)
    conversation.says(3, b"\x01\x04")
    assert conversation.reads() == (4, PASSWORD + b"\0")
    conversation.is_let_in(5)


def test_caching_sha2_after_a_switch_uses_the_new_salt(key: peer.RsaKey) -> None:
    conversation = Conversation(password=PASSWORD.decode())
    assert greeted(conversation, b"sha256_password").plugin == NATIVE
    conversation.says(2, b"\xfe" + SHA2 + b"\0" + OTHER_SALT + b"\0")
    number, reply = conversation.reads()
    assert number == 3
    assert peer.knows_caching_sha2(PASSWORD, OTHER_SALT, reply)
    conversation.says(4, b"\x01\x04")
    conversation.reads()
    conversation.says(6, b"\x01" + key.pem)
    assert key.password(conversation.reads()[1], OTHER_SALT) == PASSWORD + b"\0"


@pytest.mark.parametrize(
    ("said", "error", "text"),
    [
        (b"\x01no key", ConnectFailed, "public key cannot be used"),
        (b"\x02what", BadResponse, "instead of its public key"),
        (peer.err(1045, b"28000", b"no"), ConnectFailed, "access denied: no"),
    ],
)
def test_no_key_where_one_was_asked_for(said: bytes, error: type[PoolError], text: str) -> None:
    conversation = Conversation(password=PASSWORD.decode())
    greeted(conversation, SHA2)
    conversation.says(2, b"\x01\x04")
    with pytest.raises(error, match=text):
        conversation.says(4, said)


def test_a_server_that_asks_for_the_password_again_and_again_is_refused(key: peer.RsaKey) -> None:
    conversation = Conversation(password=PASSWORD.decode())
    greeted(conversation, SHA2)
    for number in range(2, 2 + 4 * MAX_STEPS, 4):
        conversation.says(number, b"\x01\x04")
        conversation.says(number + 2, b"\x01" + key.pem)
    with pytest.raises(BadResponse, match="does not end"):
        conversation.says(2 + 4 * MAX_STEPS, b"\x01\x04")


def test_a_server_that_says_done_for_ever_is_refused() -> None:
    conversation = Conversation(password=PASSWORD.decode())
    greeted(conversation, SHA2)
    for number in range(2, 2 + MAX_STEPS):
        conversation.says(number, b"\x01\x03")
    with pytest.raises(BadResponse, match="does not end"):
        conversation.says(2 + MAX_STEPS, b"\x01\x03")


# --- switches ----------------------------------------------------------------------------------------


def test_a_switch_to_native_uses_the_new_salt() -> None:
    conversation = Conversation(password=PASSWORD.decode())
    greeted(conversation, SHA2)
    conversation.says(2, b"\xfe" + NATIVE + b"\0" + OTHER_SALT + b"\0")
    number, reply = conversation.reads()
    assert number == 3
    assert peer.knows_native(PASSWORD, OTHER_SALT, reply)
    conversation.is_let_in(4)


def test_ed25519_signs_as_ed25519_does() -> None:
    # Of a password as long as an Ed25519 seed, MariaDB's key is the one of RFC 8032.
    password = hashlib.sha256(b"seed").hexdigest()[:32]
    nonce = bytes(range(32))
    conversation = Conversation(password=password)
    greeted(conversation)
    conversation.says(2, b"\xfeclient_ed25519\0" + nonce)
    assert conversation.reads() == (3, Ed25519PrivateKey.from_private_bytes(password.encode()).sign(nonce))
    conversation.is_let_in(4)


def test_a_password_in_clear_is_refused_without_tls() -> None:
    conversation = Conversation(password=PASSWORD.decode())
    greeted(conversation)
    with pytest.raises(ConnectFailed, match=r"mysql_clear_password.*over TLS only: use mysqls://"):
        conversation.says(2, b"\xfemysql_clear_password\0")
    assert PASSWORD not in conversation.sent


def test_a_password_in_clear_goes_over_tls(certificates: Certificates) -> None:
    conversation = Conversation(
        "mysql://me@localhost:1/db?tls", password=PASSWORD.decode(), tls={"ca": certificates.ca.read_text()}
    )
    over_tls(conversation, certificates.server)
    conversation.says(3, b"\xfemysql_clear_password\0")
    assert conversation.reads() == (4, PASSWORD + b"\0")


@pytest.mark.parametrize("said", [b"\xfe", b"\xfemysql_old_password\0abcdefgh\0"])
def test_the_old_password_is_refused(said: bytes) -> None:
    conversation = Conversation(password=PASSWORD.decode())
    greeted(conversation)
    with pytest.raises(ConnectFailed, match="mysql_old_password"):
        conversation.says(2, said)


def test_an_unknown_method_is_named() -> None:
    conversation = Conversation()
    greeted(conversation, b"auth_gssapi_client")
    with pytest.raises(ConnectFailed, match="method auth_gssapi_client, which is not supported"):
        conversation.says(2, b"\xfeauth_gssapi_client\0xyz")


def test_a_second_switch_is_no_answer() -> None:
    conversation = Conversation()
    greeted(conversation)
    conversation.says(2, b"\xfe" + NATIVE + b"\0" + OTHER_SALT)
    with pytest.raises(BadResponse, match="a second time"):
        conversation.says(4, b"\xfe" + NATIVE + b"\0" + OTHER_SALT)


# --- TLS ---------------------------------------------------------------------------------------------


def over_tls(conversation: Conversation, pair: Any, plugin: bytes = NATIVE) -> Response:
    conversation.says(0, peer.greeting(peer.MODERN | peer.SSL, plugin))
    number, request = conversation.reads()
    assert (number, len(request)) == (1, 32)
    assert struct.unpack_from("<I", request)[0] & peer.SSL
    conversation.starts_tls(pair)
    number, payload = conversation.reads()
    assert (number, payload[:32]) == (2, request)
    return Response(payload)


@pytest.mark.parametrize("step", [1, 1 << 20], ids=["byte by byte", "whole"])
def test_nothing_but_the_request_for_tls_goes_in_clear(step: int, certificates: Certificates) -> None:
    conversation = Conversation(
        "mysql://me@localhost:1/db?tls", step=step, password="pw", tls={"ca": certificates.ca.read_text()}
    )
    response = over_tls(conversation, certificates.server)
    assert peer.knows_native(b"pw", peer.SALT, response.reply)
    conversation.is_let_in(3)


@pytest.mark.parametrize("greeting", [peer.greeting(peer.MODERN), peer.greeting(peer.OLD, b"")])
def test_a_server_without_tls_is_told_nothing_where_tls_is_wanted(greeting: bytes) -> None:
    conversation = Conversation("mysql://me@h:1/db?tls", password="pw", tls={})
    with pytest.raises(ConnectFailed, match="TLS is required, but the server does not offer it"):
        conversation.says(0, greeting)
    assert conversation.sent == b""


@pytest.mark.parametrize(
    ("which", "text"),
    [("expired", "expired"), ("wrong_name", "not for localhost"), ("stranger", "unknown authority")],
)
def test_a_bad_certificate_is_said_to_be(which: str, text: str, certificates: Certificates) -> None:
    conversation = Conversation("mysql://me@localhost:1/db?tls", tls={"ca": certificates.ca.read_text()})
    conversation.says(0, peer.greeting(peer.MODERN | peer.SSL))
    conversation.reads()
    with pytest.raises(ConnectFailed, match=text):
        conversation.starts_tls(getattr(certificates, which))


def test_bytes_in_clear_behind_the_greeting_are_not_taken_for_the_servers_own() -> None:
    conversation = Conversation("mysql://me@localhost:1/db?tls", tls={})
    injected = peer.packet(0, peer.greeting(peer.MODERN | peer.SSL)) + peer.packet(2, peer.ok())
    with pytest.raises(BadResponse, match="unencrypted data received where TLS must begin"):
        conversation.feeds(injected)


def test_no_tls_behind_the_request_for_it_is_connect_failed() -> None:
    conversation = Conversation("mysql://me@localhost:1/db?tls", tls={})
    conversation.says(0, peer.greeting(peer.MODERN | peer.SSL))
    with pytest.raises(ConnectFailed, match="does not speak TLS"):
        conversation.feeds(peer.packet(2, peer.err()))


# --- refusals and nonsense ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1040, "too many connections: said so"),
        (1129, "host blocked: said so"),
        (1130, "host not allowed: said so"),
    ],
)
def test_a_refusal_in_place_of_the_greeting(number: int, text: str) -> None:
    with pytest.raises(ConnectFailed, match=rf"{text} \({number}"):
        Conversation().says(0, peer.err(number, b"", b"said so"))


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1045, "access denied: said so"),
        (1049, "unknown database: said so"),
        (1044, "access denied to the database: said so"),
        (1862, "password expired: said so"),
        (9999, "refused: said so"),
    ],
)
def test_a_refusal_of_the_log_in_says_which(number: int, text: str) -> None:
    conversation = Conversation()
    greeted(conversation)
    with pytest.raises(ConnectFailed, match=rf"{text} \({number}, SQLSTATE 28000\)"):
        conversation.says(2, peer.err(number, b"28000", b"said so"))


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        peer.packet(0, b"\x09old protocol\0"),
        peer.packet(0, b""),
        peer.packet(1, peer.greeting()),
        peer.packet(0, peer.greeting()[:30]),
        peer.packet(0, b"\x0aa version without an end"),
        b"\xff\xff\xff\x00\x0a",
        peer.packet(0, b"\xff\x01"),
    ],
    ids=[
        "http", "ssh", "protocol 9", "empty", "number", "cut short", "no version's end", "lying length",
        "half an ERR",
    ],
)  # fmt: skip
@pytest.mark.parametrize("step", [1, 1 << 20], ids=["byte by byte", "whole"])
def test_what_is_no_greeting_is_a_bad_response(data: bytes, step: int) -> None:
    with pytest.raises(BadResponse):
        Conversation(step=step).feeds(data)


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "begins with b'HTTP"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "begins with b'SSH-"),
        (b"220 mail.test ESMTP\r\n", "begins with b'220 "),
        (b"-ERR unknown command\r\n", "begins with b'-ERR"),
        (b"\x15\x03\x03\x00\x02\x02\x46", r"begins with b'\\x15\\x03"),
        (b"E\0\0\0\x65SFATAL\0", "begins with b'E"),
        (b"\x05\0\0\0\x0b\x08\x05\x1a\0", "X protocol; the classic protocol has another port"),
    ],
    ids=["http", "ssh", "smtp", "redis", "tls", "postgresql", "x protocol"],
)
@pytest.mark.parametrize("step", [1, 1 << 20], ids=["byte by byte", "whole"])
def test_what_is_not_mysql_is_said_not_to_be(data: bytes, shown: str, step: int) -> None:
    """go-mysql#876, vapor/mysql-nio#60"""
    with pytest.raises(BadResponse, match=rf"does not speak MySQL.*{shown}"):
        Conversation(step=step).feeds(data)


def test_a_peer_that_says_nothing_is_asked_if_it_is_mysql() -> None:
    conversation = Conversation()
    assert "a MySQL server speaks first" in conversation.protocol.awaited
    assert conversation.protocol.eof() == ()
    greeted(conversation)
    assert conversation.protocol.awaited == ""
    assert conversation.protocol.eof() == ()


def test_a_peer_that_breaks_off_is_said_not_to_be_mysql() -> None:
    conversation = Conversation()
    conversation.feeds(b"220")
    with pytest.raises(BadResponse, match=r"does not speak MySQL.*b'220'"):
        conversation.protocol.eof()


@pytest.mark.parametrize("step", [1, 1 << 20], ids=["byte by byte", "whole"])
@pytest.mark.parametrize("number", [0, 1, 3, 255])
def test_an_error_out_of_turn_during_the_log_in_keeps_the_servers_words(number: int, step: int) -> None:
    """aiomysql#971: the server gave up waiting, and says so with the number of our own packet."""
    conversation = Conversation(step=step)
    greeted(conversation)
    with pytest.raises(ConnectFailed, match=r"Got timeout reading communication packets \(1159"):
        conversation.says(number, peer.err(1159, b"08S01", b"Got timeout reading communication packets"))


@pytest.mark.parametrize("step", [1, 1 << 20], ids=["byte by byte", "whole"])
def test_a_refusal_in_place_of_the_greeting_may_have_any_number(step: int) -> None:
    with pytest.raises(ConnectFailed, match="too many connections: said so"):
        Conversation(step=step).says(1, peer.err(1040, b"", b"said so"))


def test_caching_sha2_in_full_sends_the_password_over_a_unix_socket() -> None:
    """A server takes nothing else there: nobody can listen (go-sql-driver#1245)."""
    conversation = Conversation("mysql://me@/db?socket=%2Frun%2Fmysqld.sock", password=PASSWORD.decode())
    greeted(conversation, SHA2)
    conversation.says(2, b"\x01\x04")
    assert conversation.reads() == (3, PASSWORD + b"\0")
    conversation.is_let_in(4)


def test_a_server_of_another_age_is_refused() -> None:
    with pytest.raises(ConnectFailed, match="too old"):
        Conversation().says(0, peer.greeting(peer.MODERN & ~peer.PLUGIN_AUTH, b""))


@pytest.mark.parametrize(
    "data",
    [
        peer.packet(3, peer.ok()),
        peer.packet(2, b""),
        peer.packet(2, b"\x07what"),
        peer.packet(2, b"\x01\x04"),
        peer.packet(2, b"\x00\x00"),
        peer.packet(2, peer.ok()) + peer.packet(3, peer.ok()),
    ],
    ids=["number", "empty", "unknown", "another method's", "cut short", "more than was asked for"],
)
def test_nonsense_in_the_log_in_is_a_bad_response(data: bytes) -> None:
    conversation = Conversation()
    greeted(conversation)
    with pytest.raises(BadResponse):
        conversation.feeds(data)


def test_a_session_that_cannot_be_set_up_is_connect_failed() -> None:
    conversation = Conversation()
    greeted(conversation)
    conversation.says(2, peer.ok())
    conversation.reads()
    with pytest.raises(ConnectFailed, match="cannot be set up: denied"):
        conversation.says(1, peer.err(1227, b"42000", b"denied"))


# --- settings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"password": 7}, {"tls": "yes"}, {"password": b"bytes"}])
def test_malformed_settings_are_a_usage_error(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="malformed settings"):
        mysql.protocol("mysql://me@h:1/", msgpack.packb(settings), 1 << 20)


def test_a_worker_without_pymysql_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    # None in sys.modules makes an import fail: docs.python.org, "The module cache".
    for name in ("mysql_connection", "mysql_login"):
        monkeypatch.setitem(__import__("sys").modules, f"reqpool_workers.protocols.{name}", None)
    with pytest.raises(UsageError, match=r"pip install 'reqpool\[server\]'"):
        mysql.protocol("mysql://me@h:1/", b"", 1 << 20)


@pytest.mark.parametrize("missing", ["_init_nacl", "_have_cryptography"])
def test_a_method_whose_package_is_missing_says_what_to_install(
    missing: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from pymysql import _auth

    def fails() -> None:
        raise RuntimeError("'pynacl' package is required")

    conversation = Conversation(password="pw")
    if missing == "_init_nacl":
        monkeypatch.setattr(_auth, "_nacl_bindings", False)
        monkeypatch.setattr(_auth, missing, fails)
        greeted(conversation)
        number, said = 2, b"\xfeclient_ed25519\0" + bytes(32)
    else:
        monkeypatch.setattr(_auth, missing, False)
        greeted(conversation, SHA2)
        conversation.says(2, b"\x01\x04")
        number, said = 4, b"\x01key"
    with pytest.raises(ConnectFailed, match=r"pip install 'reqpool\[server\]'"):
        conversation.says(number, said)
