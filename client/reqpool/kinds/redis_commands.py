"""Redis commands: which may run twice, which need a separate connection, and which change a connection.

The tables are from ``COMMAND`` of Redis 7.0.15 (flags ``readonly`` and ``blocking``); a test checks them
against the installed server. Other commands (a module's, say) are assumed to change data and to leave the
connection unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from reqpool_contract.errors import UsageError

READ_ONLY = frozenset({
    "BITCOUNT", "BITFIELD_RO", "BITPOS", "DBSIZE", "DUMP", "EVALSHA_RO", "EVAL_RO", "EXISTS", "EXPIRETIME",
    "FCALL_RO", "GEODIST", "GEOHASH", "GEOPOS", "GEORADIUSBYMEMBER_RO", "GEORADIUS_RO", "GEOSEARCH", "GET",
    "GETBIT", "GETRANGE", "HEXISTS", "HGET", "HGETALL", "HKEYS", "HLEN", "HMGET", "HRANDFIELD", "HSCAN",
    "HSTRLEN", "HVALS", "KEYS", "LCS", "LINDEX", "LLEN", "LOLWUT", "LPOS", "LRANGE", "MGET", "PEXPIRETIME",
    "PFCOUNT", "PTTL", "RANDOMKEY", "SCAN", "SCARD", "SDIFF", "SINTER", "SINTERCARD", "SISMEMBER",
    "SMEMBERS", "SMISMEMBER", "SORT_RO", "SRANDMEMBER", "SSCAN", "STRLEN", "SUBSTR", "SUNION", "TOUCH",
    "TTL", "TYPE", "XLEN", "XPENDING", "XRANGE", "XREAD", "XREVRANGE", "ZCARD", "ZCOUNT", "ZDIFF", "ZINTER",
    "ZINTERCARD", "ZLEXCOUNT", "ZMSCORE", "ZRANDMEMBER", "ZRANGE", "ZRANGEBYLEX", "ZRANGEBYSCORE", "ZRANK",
    "ZREVRANGE", "ZREVRANGEBYLEX", "ZREVRANGEBYSCORE", "ZREVRANK", "ZSCAN", "ZSCORE", "ZUNION",
    "MEMORY USAGE", "OBJECT ENCODING", "OBJECT FREQ", "OBJECT IDLETIME", "OBJECT REFCOUNT",
    "XINFO CONSUMERS", "XINFO GROUPS", "XINFO STREAM",
})  # fmt: skip
"""Commands that only read, and so may run more than once."""

_WRITES = frozenset({
    "APPEND", "BITFIELD", "BITOP", "COPY", "DECR", "DECRBY", "DEL", "FLUSHALL",
    "FLUSHDB", "GEOADD", "GETDEL", "GETEX", "GETSET", "HDEL", "HINCRBY", "HINCRBYFLOAT", "HMSET", "HSET",
    "HSETNX", "INCR", "INCRBY", "INCRBYFLOAT", "LINSERT", "LMOVE", "LPOP", "LPUSH", "LPUSHX", "LREM",
    "LSET", "LTRIM", "MSET", "MSETNX", "PERSIST", "PFADD", "PFMERGE", "PSETEX",
    "PUBLISH", "RENAME", "RENAMENX", "RESTORE", "RPOP", "RPOPLPUSH", "RPUSH", "RPUSHX", "SADD",
    "SDIFFSTORE", "SET", "SETBIT", "SETEX", "SETNX", "SETRANGE", "SINTERSTORE", "SMOVE", "SPOP", "SPUBLISH",
    "SREM", "SUNIONSTORE", "UNLINK", "XACK", "XADD", "XDEL", "XTRIM", "ZADD", "ZDIFFSTORE", "ZINCRBY",
    "ZINTERSTORE", "ZPOPMAX", "ZPOPMIN", "ZRANGESTORE", "ZREM", "ZREMRANGEBYLEX", "ZREMRANGEBYRANK",
    "ZREMRANGEBYSCORE", "ZUNIONSTORE", "ECHO", "PING", "TIME", "LASTSAVE",
})  # fmt: skip
"""Other commands whose errors have fixed texts, as those of :data:`READ_ONLY` have. The errors of all
others may quote arguments: those of containers, of EXPIRE and the like, of stream groups, and of modules."""

_SCRIPTS = frozenset({"EVAL", "EVALSHA", "EVALSHA_RO", "EVAL_RO", "FCALL", "FCALL_RO", "FUNCTION", "SCRIPT"})
"""Commands that run users' code, or read it. An error or a status of such code may have any text, and one
with a line end reads like two replies (redis PR 15496), so these commands have separate connections."""

BLOCKING = frozenset({
    "BLMOVE", "BLMPOP", "BLPOP", "BRPOP", "BRPOPLPUSH", "BZMPOP", "BZPOPMAX", "BZPOPMIN",
})  # fmt: skip
"""Commands that wait, and so make everything pipelined after them wait; also XREAD and XREADGROUP, if BLOCK
is among their words."""

_OTHER_CLIENT = "reqpool answers a request once: use a separate Redis client for it"
_IN_URL = "put them into the URL: redis://user:password@host:6379/0"
_LIKE_HTTP = "Redis takes it for an HTTP request and closes the connection"
_IN_SESSION = "use a session: pool.redis_session(url)"

REFUSED = {
    "SUBSCRIBE": _OTHER_CLIENT,
    "PSUBSCRIBE": _OTHER_CLIENT,
    "SSUBSCRIBE": _OTHER_CLIENT,
    "UNSUBSCRIBE": _OTHER_CLIENT,
    "PUNSUBSCRIBE": _OTHER_CLIENT,
    "SUNSUBSCRIBE": _OTHER_CLIENT,
    "MONITOR": _OTHER_CLIENT,
    "SYNC": _OTHER_CLIENT,
    "PSYNC": _OTHER_CLIENT,
    "REPLCONF": _OTHER_CLIENT,
    "CLIENT REPLY": "the pool needs every reply",
    "CLIENT TRACKING": _OTHER_CLIENT,
    "CLIENT CACHING": _OTHER_CLIENT,
    # RESET does not undo these two in Redis 7.0 (networking.c, clearClientConnectionState).
    "CLIENT NO-EVICT": "use a separate Redis client for it",
    "CLIENT NO-TOUCH": "use a separate Redis client for it",
    # Valkey 8: lasts until the connection ends.
    "CLIENT CAPA": _OTHER_CLIENT,
    "CLIENT IMPORT-SOURCE": _OTHER_CLIENT,
    "SCRIPT DEBUG": "use redis-cli --ldb",
    "AUTH": f"user and password belong to the connection: {_IN_URL}",
    "HELLO": f"it changes the connection: for RESP3 use protocol=3; for user and password, {_IN_URL}",
    "RESET": "the pool resets a session's connection by itself",
    "QUIT": "the pool manages connections: close the session, or the pool",
    "POST": _LIKE_HTTP,
    "HOST:": _LIKE_HTTP,
}
"""Commands that are refused on all connections, and what to do instead."""

_OWN_WRITES = "it waits for the writes of its connection, which may be another caller's: " + _IN_SESSION

PINNED_ONLY = {
    "WAIT": _OWN_WRITES,
    "WAITAOF": _OWN_WRITES,
    "SELECT": "put the database into the URL (redis://host:6379/1), or " + _IN_SESSION,
    "MULTI": "send the commands together, pool.redis_multi(url, commands), or " + _IN_SESSION,
    "EXEC": "send the commands together, pool.redis_multi(url, commands), or " + _IN_SESSION,
    "DISCARD": _IN_SESSION,
    "WATCH": _IN_SESSION,
    "UNWATCH": _IN_SESSION,
    "READONLY": _IN_SESSION,
    "READWRITE": _IN_SESSION,
    "ASKING": _IN_SESSION,
    "CLIENT SETNAME": _IN_SESSION,
    "CLIENT SETINFO": _IN_SESSION,
}
"""Commands that change the connection in a way that RESET undoes, or report what was done on it; and what to
do instead where the connection is shared."""

PLAIN, READ, WAITS, ALONE, LOOK, QUOTES = 0, 1, 2, 4, 8, 16
"""Uses. WAITS and ALONE may be combined with READ. ALONE: no other client's reply may follow this one's, not
even in a transaction. LOOK, QUOTES: the name alone does not decide, see :func:`use_of`; with QUOTES it
depends only on whether there are line ends that an error could quote."""

_CONTAINERS = frozenset(
    name.partition(" ")[0] for table in (READ_ONLY, REFUSED, PINNED_ONLY) for name in table if " " in name
)
_LOOKED_AT = _CONTAINERS.union(REFUSED, PINNED_ONLY, ("XREAD", "XREADGROUP", "XPENDING"))


@lru_cache(maxsize=1024)
def named_use(name: str | bytes) -> int:
    """Return the use of a command by its name, in any case.

    Raises:
        UsageError: it is not a name.
    """
    upper = _upper(name)
    if not upper or any(character <= " " for character in upper):
        raise UsageError(
            'a command\'s name is one word: write each word as a separate string: ("CONFIG", "GET", "*")'
        )
    if upper in _LOOKED_AT:
        return LOOK
    use = (READ if upper in READ_ONLY else PLAIN) | (WAITS if upper in BLOCKING else PLAIN)
    if upper in _SCRIPTS:
        return use | ALONE
    return use if use or upper in _WRITES else QUOTES


def use_of(command: Sequence[Any], packed: bytes, pinned: bool) -> int:
    """Return the use of a command.

    Args:
        command: name and arguments.
        packed: the same as :func:`pack` makes it.
        pinned: whether the connection is a session's.

    Raises:
        UsageError: the command is refused on this connection; the text says what to do instead.
    """
    named = named_use(command[0])
    if named != LOOK and named != QUOTES:
        return named
    # The protocol adds two line ends to each word, and one to their number.
    quoting = ALONE if packed.count(b"\n") != 2 * len(command) + 1 else PLAIN
    if named == QUOTES:
        return quoting
    name = command_name(command)
    way_out = REFUSED.get(name) or (None if pinned else PINNED_ONLY.get(name))
    if way_out is not None:
        shared = " on a shared connection" if name in PINNED_ONLY else ""
        raise UsageError(f"{name} is refused{shared}: {way_out}")
    use = quoting | (READ if name in READ_ONLY else PLAIN)
    if _upper(command[0]) in _SCRIPTS:
        use |= ALONE
    if name in ("XREAD", "XREADGROUP"):
        # Options come before STREAMS, in any order; the two names after GROUP may be any words.
        words = iter(command[1:])
        for argument in words:
            word = _upper(argument)
            if word == "STREAMS":
                break
            if word == "BLOCK":
                return use | WAITS
            if word == "GROUP" and name == "XREADGROUP":
                next(words, None)
                next(words, None)
    return use


def command_name(command: Sequence[Any]) -> str:
    """Return a command's name for display; that of a container with its subcommand: ``CONFIG SET``."""
    name = _upper(command[0])
    return f"{name} {_upper(command[1])}" if name in _CONTAINERS and len(command) > 1 else name


def _upper(word: object) -> str:
    if isinstance(word, str):
        return word.upper()
    return bytes(word).decode("latin-1").upper() if isinstance(word, (bytes, bytearray, memoryview)) else ""
