"""The log-in: greeting, TLS, authentication, and the statement that sets the session up.

A *dialogue* is a generator: it yields packets to send (framed; empty for none) or :class:`StartTls`, and is
sent each packet that comes, as its sequence number and payload. It returns the session as the last OK
describes it, or raises ConnectFailed with a text that says what went wrong.

Sources: dev.mysql.com/doc/dev/mysql-server, "Connection Phase"; mariadb.com/kb/en/connection; for
caching_sha2 the page "Caching_sha2_password information", for ed25519
mariadb.com/kb/en/authentication-plugin-ed25519.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

from pymysql import _auth
from pymysql.constants import CLIENT

from reqpool_contract.errors import BadResponse, ConnectFailed, PoolError
from reqpool_contract.payloads.mysql import EOF, ERR, HEADER_BYTES, MAX_PACKET_BYTES, OK, QUERY

from .mysql_packets import (
    COM_INIT_DB,
    COM_RESET_CONNECTION,
    SESSION_TRACK,
    Reader,
    length_encoded,
    packet,
    read_error,
    read_status,
    reading,
)


class StartTls(NamedTuple):
    """Send ``request`` unencrypted; everything after it goes through TLS, both ways. The dialogue is sent
    None when TLS is established."""

    request: bytes


Dialogue = Generator[bytes | StartTls, Any, "ServerSession"]

UTF8MB4_GENERAL_CI = 45
"""Known to every server since 5.5.3; SET NAMES then takes the server's own choice of collation."""

# Not here: LOCAL_FILES (a server could ask for any file of the worker's), MULTI_STATEMENTS (an injected
# second statement would run), COMPRESS, FOUND_ROWS (``affected`` counts rows that were changed, as PyMySQL
# does).
CAPABILITIES: int = (
    CLIENT.LONG_PASSWORD
    | CLIENT.LONG_FLAG
    | CLIENT.PROTOCOL_41
    | CLIENT.TRANSACTIONS
    | CLIENT.SECURE_CONNECTION
    | CLIENT.MULTI_RESULTS
    | CLIENT.PS_MULTI_RESULTS
    | CLIENT.PLUGIN_AUTH
    | CLIENT.PLUGIN_AUTH_LENENC_CLIENT_DATA
    | CLIENT.CONNECT_ATTRS
    | CLIENT.SESSION_TRACK
    | CLIENT.DEPRECATE_EOF
)
_ATTRIBUTES = {b"_client_name": b"reqpool", b"program_name": b"reqpool"}

# autocommit may be off in the server's configuration. Tracking, above all of the transaction, shows that a
# statement left something on a shared connection.
_OURS = b"SET NAMES utf8mb4, autocommit=1"
_TRACKED = (
    _OURS + b", session_track_schema=1, session_track_state_change=1, session_track_transaction_info='STATE'"
    b", session_track_system_variables='character_set_client,character_set_connection,character_set_results"
    b",session_track_state_change,session_track_system_variables'"
)
_UNKNOWN_VARIABLE = 1193
_NO_ROLE = b"IF CURRENT_ROLE() IS NOT NULL THEN SIGNAL SQLSTATE '45000'; END IF"
"""For MariaDB, whose reset leaves the role that a SET ROLE, perhaps in a routine, has set. An account's
default role cannot be distinguished from it: then the connection is closed instead."""

_FULL_AUTHENTICATION, _FAST_AUTHENTICATION_DONE = b"\x01\x04", b"\x01\x03"
_ASK_PUBLIC_KEY = b"\x02"
_SALT_BYTES = 20
MAX_STEPS = 8
"""Of a log-in, after the first reply; the longest, with a switch and full authentication of caching_sha2, has
3. Each may cost an RSA encryption, during which all connections of a worker wait."""

_WHICH = {
    1040: "too many connections",
    1044: "access denied to the database",
    1045: "access denied",
    1049: "unknown database",
    1129: "host blocked",
    1130: "host not allowed",
    1203: "too many connections of this user",
    1226: "too many connections of this user",
    1251: "authentication method not supported",
    1275: "authentication method not supported",
    1524: "authentication method not loaded at the server",
    1698: "access denied",
    1862: "password expired",
    3118: "account locked",
    4151: "account locked",
}
"""What error numbers during a log-in mean, in short; the server's text follows."""


class Account(NamedTuple):
    """An account and how it logs in.

    Attributes:
        user, database: in UTF-8; no database is empty.
        password: in UTF-8, empty for none.
    """

    user: bytes
    password: bytes
    database: bytes


class ServerSession(NamedTuple):
    """A session at the server, after a log-in or another dialogue.

    Attributes:
        capabilities: the CLIENT_* flags in force.
        tracks: whether the server reports changes to the session's state.
        status: the status flags of the last OK.
        is_mariadb: whether the server is MariaDB.
    """

    capabilities: int
    tracks: bool
    status: int
    is_mariadb: bool


class Greeting(NamedTuple):
    """The server's first packet."""

    capabilities: int
    salt: bytes
    plugin: bytes
    is_mariadb: bool


def log_in(account: Account, tls: bool, private: bool) -> Dialogue:
    """Log in, up to a session that is ready for statements.

    Args:
        account: the account.
        tls: whether to use TLS, and nothing else.
        private: whether the connection cannot be overheard, since it is TLS or a Unix socket. Then the
            password is sent in clear if the server asks for it; caching_sha2_password requires that on a
            socket.

    Raises:
        ConnectFailed: if the server refuses something, or does not offer it; the text says what.
        BadResponse: if it speaks another protocol.
    """
    number, payload = yield b""
    if payload[:1] == bytes((ERR,)):
        raise refused(payload)
    greeting = read_greeting(payload)
    capabilities = CAPABILITIES & greeting.capabilities
    if account.database:
        capabilities |= CLIENT.CONNECT_WITH_DB & greeting.capabilities
    if not capabilities & CLIENT.PROTOCOL_41 or not capabilities & CLIENT.PLUGIN_AUTH:
        raise ConnectFailed("the server is too old: it needs MySQL 5.5.7 or MariaDB 5.5 at least")
    prelude = struct.pack("<IIB23x", capabilities, MAX_PACKET_BYTES, UTF8MB4_GENERAL_CI)
    if tls:
        if not greeting.capabilities & CLIENT.SSL:
            raise ConnectFailed("TLS is required, but the server does not offer it")
        capabilities |= CLIENT.SSL
        prelude = struct.pack("<IIB23x", capabilities, MAX_PACKET_BYTES, UTF8MB4_GENERAL_CI)
        number = number + 1 & 0xFF
        yield StartTls(packet(prelude, number))
    plugin = greeting.plugin if greeting.plugin in _FIRST_REPLIES else b"mysql_native_password"
    reply = _FIRST_REPLIES[plugin](account, greeting.salt)
    attributes = b"".join(length_encoded(part) for pair in _ATTRIBUTES.items() for part in pair)
    response = b"".join(
        (
            prelude,
            account.user,
            b"\0",
            length_encoded(reply) if capabilities & CLIENT.PLUGIN_AUTH_LENENC_CLIENT_DATA
            else bytes((len(reply),)) + reply,
            account.database + b"\0" if capabilities & CLIENT.CONNECT_WITH_DB else b"",
            plugin + b"\0",
            length_encoded(attributes) if capabilities & CLIENT.CONNECT_ATTRS else b"",
        )
    )  # fmt: skip
    number, payload = yield packet(response, number + 1 & 0xFF)
    status = yield from _authenticate(account, private, plugin, greeting.salt, number, payload)
    tracks = bool(capabilities & SESSION_TRACK)
    return (yield from _make_ours(ServerSession(capabilities, tracks, status, greeting.is_mariadb)))


def hold(session: ServerSession) -> Dialogue:
    """Make the session one caller's own: its statements are a transaction until COMMIT or ROLLBACK."""
    status = yield from _command(QUERY + b"SET autocommit=0")
    return session._replace(status=status)


def release(session: ServerSession, database: bytes, *, elsewhere: bool) -> Dialogue:
    """Undo everything that statements did to the session: transaction, variables, temporary tables, locks,
    prepared statements, database.

    Args:
        session: as it was at log-in.
        database: the one named at log-in.
        elsewhere: whether another database may be the current one; COM_RESET_CONNECTION does not change that.

    Raises:
        BadResponse: if the server does not support it; it was added in MySQL 5.7.3 and MariaDB 10.2.4.
    """
    # This fails inside an XA transaction, prepared or not, however it was begun. The reset would leave it in
    # pieces, and InnoDB would serve no statement on this connection any more (MariaDB 10.11).
    yield from _command(QUERY + b"ROLLBACK")
    yield from _command(COM_RESET_CONNECTION)
    if session.is_mariadb:
        yield from _command(QUERY + _NO_ROLE)
    if elsewhere:
        yield from _command(COM_INIT_DB + database)
    return (yield from _make_ours(session))


def read_greeting(payload: bytes) -> Greeting:
    """Read the server's first packet, protocol 10.

    Raises:
        BadResponse: if it is malformed.
    """
    reader = Reader(payload)
    plugin = b""
    with reading("greeting"):
        reader.skip(1)
        version = reader.until_nul()
        reader.skip(4)  # connection id
        salt = reader.take(8)
        reader.skip(1)
        capabilities = reader.uint16()
        if reader.left:
            reader.skip(3)  # character set, status
            capabilities |= reader.uint16() << 16
            salt_bytes = reader.uint8()
            reader.skip(10)
            if capabilities & CLIENT.SECURE_CONNECTION:
                salt += reader.take(max(12, salt_bytes - 9))
                reader.skip(1)
            if capabilities & CLIENT.PLUGIN_AUTH:
                plugin = reader.take(reader.left).rstrip(b"\0")  # servers before 5.5.10 send no NUL
    return Greeting(capabilities, salt[:_SALT_BYTES], plugin, b"MariaDB" in version)


def not_mysql(received: bytes) -> str:
    """Return the text for a peer that is not a MySQL server, with its first bytes."""
    if received[HEADER_BYTES : HEADER_BYTES + 1] == b"\x0b":
        hint = "this is its X protocol; the classic protocol has another port, usually 3306"
    else:
        hint = f"it begins with {received[:64]!r}"
    return f"the server does not speak MySQL's protocol 10: {hint}"


def refused(payload: bytes) -> ConnectFailed:
    """Return the error for an ERR packet during a log-in."""
    error = read_error(payload)
    which = _WHICH.get(error.number, "refused")
    return ConnectFailed(f"{which}: {error}")


# --- authentication -------------------------------------------------------------------------------


def _authenticate(
    account: Account, private: bool, plugin: bytes, salt: bytes, number: int, payload: bytes
) -> Generator[bytes, Any, int]:
    """Continue until the server sends OK, from the first packet after our response."""
    switched = False
    for _ in range(MAX_STEPS):
        first = payload[0]
        if first == OK:
            return read_status(payload)
        if first == ERR:
            raise refused(payload)
        if first == EOF:
            if switched:
                raise BadResponse("the server changes its authentication method a second time")
            switched = True
            plugin, salt = _switched_to(payload)
            reply = _reply(plugin, account, salt, private)
        elif payload == _FULL_AUTHENTICATION and plugin == b"caching_sha2_password":
            if private:
                reply = account.password + b"\0"
            else:
                number, payload = yield packet(_ASK_PUBLIC_KEY, number + 1 & 0xFF)
                reply = _encrypted(account.password, salt, payload)
        elif payload == _FAST_AUTHENTICATION_DONE and plugin == b"caching_sha2_password":
            number, payload = yield b""
            continue
        else:
            raise BadResponse(f"the server sends a packet that {_printable(plugin)} does not expect")
        number, payload = yield packet(reply, number + 1 & 0xFF)
    raise BadResponse(f"the log-in does not end: neither OK nor ERR after {MAX_STEPS} steps")


def _switched_to(payload: bytes) -> tuple[bytes, bytes]:
    if len(payload) == 1:  # before 4.1 passwords were hashed in another way
        return b"mysql_old_password", b""
    plugin, _, salt = payload[1:].partition(b"\0")
    return plugin, salt.removesuffix(b"\0")


def _reply(plugin: bytes, account: Account, salt: bytes, private: bool) -> bytes:
    if plugin in _FIRST_REPLIES:
        return _FIRST_REPLIES[plugin](account, salt)
    if plugin == b"client_ed25519":
        return _ed25519(account.password, salt)
    if plugin == b"mysql_clear_password":
        if not private:
            raise ConnectFailed(
                "the server asks for the password in clear (mysql_clear_password), which is sent over TLS "
                "only: use mysqls:// or tls="
            )
        return account.password + b"\0"
    if plugin == b"mysql_old_password":
        raise ConnectFailed(
            "the server asks for mysql_old_password, which is insecure: change the account's method"
        )
    raise ConnectFailed(
        f"the server asks for the authentication method {_printable(plugin)}, which is not supported"
    )


def _native(account: Account, salt: bytes) -> bytes:
    return bytes(_auth.scramble_native_password(account.password, salt))


def _caching_sha2(account: Account, salt: bytes) -> bytes:
    return bytes(_auth.scramble_caching_sha2(account.password, salt))


# Methods with which a log-in can begin; the others come by the server's request to switch.
_FIRST_REPLIES: dict[bytes, Callable[[Account, bytes], bytes]] = {
    b"mysql_native_password": _native,
    b"caching_sha2_password": _caching_sha2,
}


def _ed25519(password: bytes, salt: bytes) -> bytes:
    try:
        return bytes(_auth.ed25519_password(password, salt))
    except RuntimeError as error:  # PyMySQL's word for a package that is not there
        raise ConnectFailed(
            f"client_ed25519: {error}; pip install 'reqpool[server]' at the worker"
        ) from error


def _encrypted(password: bytes, salt: bytes, payload: bytes) -> bytes:
    if payload[:1] == bytes((ERR,)):
        raise refused(payload)
    if payload[:1] != b"\x01":
        raise BadResponse("the server sent something else instead of its public key")
    try:
        return bytes(_auth.sha2_rsa_encrypt(password, salt, payload[1:]))
    except RuntimeError as error:
        raise ConnectFailed(
            f"caching_sha2_password: {error}; pip install 'reqpool[server]' at the worker"
        ) from error
    except (ValueError, TypeError, AttributeError) as error:  # not PEM; a key of another sort
        raise ConnectFailed(f"the server's public key cannot be used: {error}") from error


def _printable(name: bytes) -> str:
    return name[:64].decode("ascii", "backslashreplace")


# --- commands -------------------------------------------------------------------------------------


def _make_ours(session: ServerSession) -> Generator[bytes, Any, ServerSession]:
    """Set the session up as our statements need it."""
    if session.tracks:
        _, payload = yield packet(QUERY + _TRACKED)
        if payload[0] == OK:
            return session._replace(status=read_status(payload))
        # Servers that know the capability but not all of the variables.
        if payload[0] != ERR or read_error(payload).number != _UNKNOWN_VARIABLE:
            raise _unexpected(payload)
        session = session._replace(tracks=False)
    status = yield from _command(QUERY + _OURS)
    return session._replace(status=status)


def _command(payload: bytes) -> Generator[bytes, Any, int]:
    """Send a command that is answered by OK."""
    _, answer = yield packet(payload)
    if answer[0] != OK:
        raise _unexpected(answer)
    return read_status(answer)


def _unexpected(payload: bytes) -> PoolError:
    if payload[0] == ERR:
        return ConnectFailed(f"the session cannot be set up: {read_error(payload)}")
    return BadResponse("the server answers neither OK nor ERR where the session is set up")
