"""Prepared statements against a real MariaDB: they give what the statement's text gives, to the last type.

The worker half speaks to the server over a socket of the test's own; the client half encodes and decodes.
"""

from __future__ import annotations

import itertools
import random
import socket
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from reqpool.kinds.mysql import KIND
from reqpool.kinds.mysql_result import MysqlResult
from reqpool_contract.errors import MysqlError
from reqpool_workers.protocols import READY, Ask, StreamProtocol, mysql
from reqpool_workers.protocols.mysql_prepared import USES
from support.mariadb import MariadbServer
from support.mysql_peer import packet
from support.plain import ASKED
from support.wait import wait_until

QUERY, PREPARE, EXECUTE, CLOSE, RESET = 0x03, 0x16, 0x17, 0x19, 0x1F
SEED = 20261128


class Wire:
    """A connection of the worker half's.

    Attributes:
        commands: first bytes of the commands sent since they were last looked at.
    """

    def __init__(self, server: MariadbServer, database: str = "test") -> None:
        origin = f"mysql://free@{server.address}/{database}"
        self._socket = socket.create_connection((server.host, server.port))
        self._protocol: StreamProtocol = mysql.protocol(origin, b"", 16 << 20)
        self.commands: list[int] = []
        self._executed = b""
        self._until(READY, self._protocol.connected())
        self.commands.clear()

    def ask(self, sql: str, params: Sequence[Any] | None = None) -> MysqlResult:
        """Ask as the client half does; clean the connection afterwards, if it must be."""
        request = Ask()
        request.payload = KIND.encode("mysql://free@h/", sql, params=params)[1]
        self._send(self._protocol.send(request))
        answer = self._until(tuple, ())
        assert self._protocol.reusable
        if self._protocol.unclean:
            steps = self._protocol.release()
            assert steps is not None
            self._until(READY, steps)
        found = KIND.decode(answer[1], ASKED)
        assert isinstance(found, MysqlResult)
        return found

    def take_commands(self) -> list[int]:
        commands, self.commands = self.commands, []
        return commands

    def lose_statement(self) -> None:
        """Close the statement that was executed last, without the worker half's knowledge."""
        self._socket.sendall(packet(0, bytes((CLOSE,)) + self._executed))

    def close(self) -> None:
        self._socket.close()

    def _send(self, data: bytes) -> None:
        self._socket.sendall(data)
        while data:
            self.commands.append(data[4])
            if data[4] == EXECUTE:
                self._executed = data[5:9]
            data = data[4 + int.from_bytes(data[:3], "little") :]

    def _until(self, wanted: Any, events: Sequence[Any]) -> Any:
        while True:
            for event in events:
                if event is wanted or (wanted is tuple and isinstance(event, tuple)):
                    return event
                assert isinstance(event, bytes)
                self._send(event)
            data = self._socket.recv(1 << 16)
            assert data
            events = self._protocol.feed(data)


Dial = Callable[[MariadbServer], Wire]


@pytest.fixture
def dial() -> Iterator[Dial]:
    """Opens connections, which the end of the test closes."""
    opened: list[Wire] = []

    def one(server: MariadbServer) -> Wire:
        opened.append(Wire(server))
        return opened[-1]

    yield one
    for wire in opened:
        wire.close()


def by_text_and_prepared(wire: Wire, sql: str, params: Sequence[Any]) -> tuple[MysqlResult, MysqlResult]:
    """Ask the same until it is prepared; return the first answer and the last."""
    answers = [wire.ask(sql, params) for _ in range(USES + 1)]
    assert wire.take_commands() == [QUERY] * (USES - 1) + [PREPARE, EXECUTE, EXECUTE]
    return answers[0], answers[-1]


def told(result: MysqlResult) -> Any:
    """All that an answer says, such that 1 and 1.0, or 1.0 and 1.00, are different."""
    return [(found.fields, repr(found.rows), found.warnings, found.affected) for found in result.sets]


def told_or_refusal(wire: Wire, sql: str, params: Sequence[Any]) -> Any:
    try:
        return told(wire.ask(sql, params))
    except MysqlError as error:
        return error.number, error.sqlstate, str(error)


# --- values ------------------------------------------------------------------------------------------

RANDOM = random.Random(SEED)


def integers(bits: int, signed: bool) -> list[int]:
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    return [low, high, 0, 1, *(RANDOM.randint(low, high) for _ in range(30))]


def floats(limit: float) -> list[float]:
    exact = [0.0, -0.0, 1.1, -1 / 3, 16777216.0, 123456.5, 1234567.0, 1e-7, 2.5, 0.1 + 0.2, 999999.5]
    some = [RANDOM.uniform(-1, 1) * 10 ** RANDOM.randint(-30, 30) for _ in range(60)]
    return [*exact, *(RANDOM.uniform(-1000, 1000) for _ in range(30)), *some, limit, -limit]


def texts() -> list[str]:
    some = ["".join(RANDOM.choices("aé日\U0001f600'\\", k=size)) for size in (0, 1, 250, 251, 252, 1000)]
    return ["", "é", "日本語", "\U0001f600", "it's \\ \" ` % ?", *some]


def blobs() -> list[bytes]:
    return [b"", b"\0", b"\xff\xfe", *(RANDOM.randbytes(size) for size in (1, 250, 251, 252, 1000, 1000))]


def dates() -> list[Any]:
    some = [date.fromordinal(RANDOM.randint(1, 3_652_059)) for _ in range(30)]
    odd = ["0000-00-00", "2024-00-00", "2024-05-00", "0000-05-05", "2024-02-31"]
    return [*odd, date(1, 1, 1), date(9999, 12, 31), *some]


def datetimes() -> list[Any]:
    odd = ["0000-00-00 00:00:00", "2024-00-10 01:02:03", "2024-05-00 00:00:00.5", "2024-02-31 00:00:00"]
    some = [
        datetime(1970, 1, 1)
        + timedelta(seconds=RANDOM.randint(0, 4_000_000_000), microseconds=RANDOM.randint(0, 999_999))
        for _ in range(30)
    ]
    edges = [datetime(1000, 1, 1), datetime(9999, 12, 31, 23, 59, 59), datetime(2024, 1, 1, 0, 0, 0, 5)]
    return [*odd, *edges, *some]


def times() -> list[Any]:
    limit = 838 * 3600 + 59 * 60 + 59
    edges = [timedelta(), timedelta(seconds=-1), timedelta(microseconds=-1)]
    some = [
        timedelta(seconds=RANDOM.randint(-limit, limit), microseconds=RANDOM.randint(0, 999_999))
        for _ in range(40)
    ]
    return [*edges, timedelta(seconds=limit), timedelta(seconds=-limit), *some]


def decimals(digits: int, scale: int) -> list[Decimal]:
    most = 10**digits - 1
    numbers = [0, 1, -1, most, -most, *(RANDOM.randint(-most, most) for _ in range(30))]
    return [Decimal(number).scaleb(-scale) for number in numbers]


COLUMNS: dict[str, Sequence[Any]] = {
    "TINYINT": integers(8, True),
    "TINYINT UNSIGNED": integers(8, False),
    "SMALLINT": integers(16, True),
    "SMALLINT UNSIGNED": integers(16, False),
    "MEDIUMINT": integers(24, True),
    "MEDIUMINT UNSIGNED": integers(24, False),
    "INT": integers(32, True),
    "INT UNSIGNED": integers(32, False),
    "INT(10) ZEROFILL": integers(32, False),
    "BIGINT": integers(64, True),
    "BIGINT UNSIGNED": integers(64, False),
    "BOOL": [0, 1, -128, True],
    "YEAR": [0, 1901, 2155, 2024],
    "FLOAT": floats(3.4028234e38),
    "FLOAT(7,3)": [0.0, 1.0005, -1234.5678, *(RANDOM.uniform(-9999, 9999) for _ in range(60))],
    "FLOAT(10,4) ZEROFILL": [0.0, 1.5, 99999.0],
    "DOUBLE": floats(1.7976931348623157e308),
    "DOUBLE(15,2)": [0.0, 0.005, *(RANDOM.uniform(-1, 1) * 1e13 for _ in range(60))],
    "DECIMAL(10,2)": decimals(10, 2),
    "DECIMAL(65,30)": decimals(65, 30),
    "DECIMAL(20,0) UNSIGNED": [Decimal(0), Decimal(10**20 - 1)],
    "DECIMAL(8,3) ZEROFILL": [Decimal(0), Decimal("12.5")],
    "BIT(1)": [0, 1],
    "BIT(7)": [0, 5, 127],
    "BIT(64)": integers(64, False),
    "DATE": dates(),
    "DATETIME": datetimes(),
    "DATETIME(1)": datetimes(),
    "DATETIME(3)": datetimes(),
    "DATETIME(6)": datetimes(),
    "TIMESTAMP NULL": ["0000-00-00 00:00:00", datetime(1970, 1, 2), datetime(2038, 1, 18, 1, 2, 3)],
    "TIMESTAMP(6) NULL": ["0000-00-00 00:00:00", datetime(2001, 2, 3, 4, 5, 6, 7), datetime(2001, 2, 3)],
    "TIME": times(),
    "TIME(3)": times(),
    "TIME(6)": times(),
    "CHAR(255)": [text[:255] for text in texts()],
    "VARCHAR(1000)": texts(),
    "TEXT": texts(),
    "LONGTEXT": texts(),
    "VARCHAR(1000) CHARACTER SET latin1": ["", "é", "x" * 251],
    "VARCHAR(300) CHARACTER SET utf16": ["é日", "x" * 251],
    "BINARY(16)": [RANDOM.randbytes(16), bytes(16)],
    "VARBINARY(1000)": blobs(),
    "TINYBLOB": [b"", b"\xff" * 255],
    "BLOB": blobs(),
    "LONGBLOB": [*blobs(), RANDOM.randbytes(70_000)],
    "JSON": ['{"a": [1, null, "é"]}', "[]", '"x"'],
    "ENUM('a','é','c d')": ["a", "é", "c d"],
    "SET('x','y','z')": ["", "x", "x,y,z"],
    "INET6": ["::1", "1.2.3.4"],
    "UUID": ["123e4567-e89b-12d3-a456-426655440000"],
    "POINT": [bytes(4) + b"\x01\x01" + bytes(3) + bytes(15) + b"\x40"],
}


@pytest.fixture
def loose(mariadb: MariadbServer) -> Iterator[MariadbServer]:
    """The server, which takes dates that are none."""
    mariadb.run("SET GLOBAL sql_mode = 'ALLOW_INVALID_DATES'")
    yield mariadb
    mariadb.run("SET GLOBAL sql_mode = DEFAULT")


@pytest.mark.parametrize("column", COLUMNS)
def test_a_value_of_each_type_goes_in_and_comes_out_as_by_text(
    dial: Dial, loose: MariadbServer, column: str
) -> None:
    loose.run(f"CREATE OR REPLACE TABLE kept (id INT AUTO_INCREMENT PRIMARY KEY, v {column}, by_text INT)")
    wire = dial(loose)
    insert = "INSERT INTO kept (v, by_text) VALUES (%s, %s)"
    for number in range(1, USES):
        wire.ask(insert, (None, 1 + number))
    values = [*COLUMNS[column], None]
    wire.take_commands()
    for value in values:
        wire.ask("INSERT INTO kept (v, by_text) VALUE (%s, 1)", (value,))  # which is not prepared
        wire.ask(insert, (value, 0))
    assert wire.take_commands() == [QUERY, PREPARE, EXECUTE] + [QUERY, EXECUTE] * (len(values) - 1)
    text, prepared = by_text_and_prepared(
        wire, "SELECT v, by_text FROM kept WHERE by_text < %s ORDER BY id", (2,)
    )
    assert told(text) == told(prepared)
    rows = [repr(row[0]) for row in text.rows]
    assert len(rows) == 2 * len(values)
    assert rows[::2] == rows[1::2]


ROWS = [
    "CREATE OR REPLACE TABLE things (id INT PRIMARY KEY, name VARCHAR(50),"
    " old VARCHAR(50) CHARACTER SET latin1, price DECIMAL(10,2), at DATETIME, f FLOAT, j JSON,"
    " b BIGINT UNSIGNED, FULLTEXT (name))",
    "INSERT INTO things SELECT seq, CONCAT('name ', seq, ' é'), CONCAT('0', seq, 'é'), seq / 4,"
    " '2024-01-01 03:04:05' + INTERVAL seq DAY, seq / 3, JSON_OBJECT('a', seq), 9223372036854775808 + seq"
    " FROM seq_0_to_20",
]


@pytest.fixture(scope="module")
def things(mariadb: MariadbServer) -> MariadbServer:
    mariadb.run(*ROWS)
    return mariadb


BIG = 2**63
FOUND: list[tuple[str, Sequence[Any]]] = [
    ("SELECT * FROM things WHERE id = %s", (3,)),
    ("select id from things where id = %s", (3.0,)),
    ("SELECT id FROM things WHERE name = %s", ("name 3 é",)),
    ("SELECT id FROM things WHERE name = %s", (b"name 3 \xc3\xa9",)),
    ("SELECT id FROM things WHERE name = %s", (0,)),
    ("SELECT id FROM things WHERE name = %s COLLATE utf8mb4_bin", ("NAME 3 é",)),
    ("SELECT id FROM things WHERE name LIKE %s ESCAPE %s", ("name 1|%", "|")),
    ("SELECT id FROM things WHERE name LIKE '%%3%%' AND id = %s", (3,)),
    ("SELECT id FROM things WHERE name IN (%s, %s)", ("name 3 é", None)),
    ("SELECT id FROM things WHERE name REGEXP %s", ("^name [1-3] ",)),
    ("SELECT id FROM things WHERE MATCH(name) AGAINST (%s)", ("name",)),
    ("SELECT id FROM things WHERE old = %s", ("03é",)),
    ("SELECT id FROM things WHERE old = %s", (b"03\xe9",)),
    ("SELECT id FROM things WHERE old = %s", (3,)),
    ("SELECT id FROM things WHERE at > %s", (datetime(2024, 1, 5),)),
    ("SELECT id FROM things WHERE at > %s", (20240105,)),
    ("SELECT id FROM things WHERE at > %s", ("nonsense",)),
    ("SELECT id FROM things WHERE TIME(at) = %s", (timedelta(hours=3, minutes=4, seconds=5),)),
    ("SELECT id FROM things WHERE at > %s + INTERVAL %s DAY", (date(2024, 1, 5), 2)),
    ("SELECT id FROM things WHERE price = %s", (1.25,)),
    ("SELECT id FROM things WHERE price = %s", (Decimal("1.250"),)),
    ("SELECT id FROM things WHERE f = %s", (1 / 3,)),
    ("SELECT id FROM things WHERE b > %s", (BIG + 17,)),
    ("SELECT id FROM things WHERE b > %s", (Decimal(BIG + 17),)),
    ("SELECT id FROM things WHERE b > %s", (10**25,)),
    ("SELECT id FROM things WHERE id & %s", (2**64 - 1,)),
    ("SELECT id FROM things WHERE %s", ("1abc",)),
    ("SELECT id FROM things WHERE id = %s OR %s IS NULL", (1, None)),
    ("SELECT id FROM things WHERE JSON_EXTRACT(j, %s) = %s", ("$.a", 3)),
    ("SELECT id FROM things ORDER BY id LIMIT %s", (3,)),
    ("SELECT id FROM things ORDER BY id LIMIT %s, %s", (3, 2)),
    ("SELECT id FROM things WHERE id > %s ORDER BY id LIMIT %s OFFSET %s", (1, 3, 2)),
    ("SELECT COUNT(*) FROM things WHERE id > %s GROUP BY id < 9 HAVING COUNT(*) >= %s", (3, 1)),
    ("SELECT a.id, b.name FROM things a JOIN things b ON a.id = b.id AND b.id = %s", (3,)),
    ("SELECT id FROM things WHERE id IN (SELECT id FROM things WHERE price > %s) AND id < %s", (1, 10)),
    ("SELECT id FROM things WHERE id = %s UNION SELECT id FROM things WHERE id = %s", (1, 2)),
    ("SELECT (SELECT name FROM things WHERE id = %s) AS name", (2,)),
    ("SELECT MAX(price), AVG(price), SUM(f), AVG(f), STD(id), MIN(at) FROM things WHERE id > %s", (2,)),
    (
        "SELECT price * 2.5 AS p, f * 1e0, CAST(f AS FLOAT), NULL, TRUE, at + INTERVAL 1.5 SECOND, id / 3,"
        " 2 / 3e0, TIMEDIFF(at, '2024-01-03'), SEC_TO_TIME(12345.678), ROUND(f, 2) FROM things WHERE id > %s",
        (2,),
    ),
]


@pytest.mark.parametrize(("sql", "params"), FOUND)
def test_a_prepared_select_finds_what_its_text_finds(
    dial: Dial, things: MariadbServer, sql: str, params: Sequence[Any]
) -> None:
    wire = dial(things)
    text, prepared = by_text_and_prepared(wire, sql, params)
    assert told(text) == told(prepared)


COMPARED = [
    "n7", "é", "2024-01-05", "00:01:17", "", b"b7", b"\xff", 7, -1, 7.5, Decimal("1.75"), BIG + 1, 10**25,
    20240105, datetime(2024, 1, 2, 3), date(2024, 1, 5), timedelta(seconds=77), True, None,
]  # fmt: skip
SORTS = [
    "CREATE OR REPLACE TABLE sorts (a INT, b BIGINT UNSIGNED, c VARCHAR(50),"
    " d VARCHAR(50) CHARACTER SET latin1, e VARBINARY(50), f DECIMAL(10, 2), g DOUBLE, h DATETIME, i DATE,"
    " j TIME, k ENUM('a', 'b'), l YEAR, KEY (a), KEY (c), KEY (d), KEY (h))",
    "INSERT INTO sorts SELECT seq, seq, CONCAT('n', seq), CONCAT('l', seq), CONCAT('b', seq), seq / 4,"
    " seq / 3, '2024-01-01' + INTERVAL seq HOUR, '2024-01-01' + INTERVAL seq DAY, SEC_TO_TIME(seq),"
    " 1 + seq % 2, 1950 + seq FROM seq_1_to_100",
]


def test_any_value_is_compared_with_a_column_of_any_type_as_its_text_is(
    dial: Dial, mariadb: MariadbServer
) -> None:
    mariadb.run(*SORTS)
    wire = dial(mariadb)
    everything = list(
        itertools.product("abcdefghijkl", ["= %s", "> %s", "<=> %s", "LIKE %s", "IN (%s, 3)"], COMPARED)
    )
    for column, comparison, value in RANDOM.sample(everything, 200):
        sql = f"SELECT * FROM sorts WHERE {column} {comparison}"
        answers = [told_or_refusal(wire, sql, (value,)) for _ in range(USES + 1)]
        assert answers == [answers[0]] * len(answers), (sql, value)
    assert wire.take_commands().count(EXECUTE) > 300


@pytest.mark.parametrize(
    ("sql", "params"),
    [
        ("SELECT %s", (1,)),
        ("SELECT price * %s AS p FROM things", (Decimal("1.10"),)),
        ("SELECT IF(id = %s, 'y', 'n') AS a FROM things", (1,)),
        ("SELECT id, price FROM things ORDER BY %s DESC", (2,)),
        ("SELECT id FROM things GROUP BY %s", (1,)),
        ("SELECT id FROM things WHERE id IN %s", ([1, 2],)),
        ("SELECT id FROM things WHERE name = _utf8mb4 %s", ("name 3 é",)),
        ("SELECT id FROM things WHERE id = %s -- once", (3,)),
        ("SELECT id FROM things WHERE name = '?' OR id = %s", (3,)),
        ("SELECT id FROM things WHERE name = '\\\\' OR id = %s", (3,)),
        ("SELECT (SELECT name FROM things WHERE id = %s)", (2,)),
        ("SHOW TABLES WHERE %s", (1,)),
    ],
)
def test_what_parameters_are_a_part_of_is_not_executed(
    dial: Dial, things: MariadbServer, sql: str, params: Sequence[Any]
) -> None:
    wire = dial(things)
    answers = [told(wire.ask(sql, params)) for _ in range(USES + 2)]
    assert EXECUTE not in wire.take_commands()
    assert answers == [answers[0]] * len(answers)


def refusal(wire: Wire, sql: str, params: Sequence[Any]) -> Any:
    with pytest.raises(MysqlError) as caught:
        wire.ask(sql, params)
    return caught.value.number, caught.value.sqlstate, str(caught.value)


@pytest.mark.parametrize(
    ("sql", "good", "bad"),
    [
        ("UPDATE things SET name = %s WHERE id = %s", ("x", 19), ("x" * 60, 19)),
        ("UPDATE things SET at = %s WHERE id = %s", (datetime(2024, 1, 1), 19), ("nonsense", 19)),
        ("UPDATE things SET old = %s WHERE id = %s", ("é", 19), ("日", 19)),
        ("INSERT INTO things (id) VALUES (%s) ON DUPLICATE KEY UPDATE id = %s", (19, 19), (19, 20)),
        ("SELECT id FROM things WHERE old = %s", ("é",), ("日",)),
        ("SELECT id FROM things LIMIT %s", (1,), ("1",)),
        ("SELECT id FROM things LIMIT %s", (1,), (-1,)),
        ("SELECT id FROM things LIMIT %s", (1,), (None,)),
        ("SELECT id FROM things LIMIT %s", (1,), (1.0,)),
    ],
)
def test_a_prepared_statement_fails_as_its_text_does(
    dial: Dial, things: MariadbServer, sql: str, good: Sequence[Any], bad: Sequence[Any]
) -> None:
    wire = dial(things)
    expected = refusal(wire, sql, bad)
    assert EXECUTE not in wire.take_commands()
    by_text_and_prepared(wire, sql, good)
    assert refusal(wire, sql, bad) == expected


def test_a_changed_table_is_seen_by_a_prepared_statement(dial: Dial, mariadb: MariadbServer) -> None:
    wire = dial(mariadb)
    mariadb.run("CREATE OR REPLACE TABLE grows (a INT)", "INSERT INTO grows VALUES (1)")
    _, prepared = by_text_and_prepared(wire, "SELECT * FROM grows WHERE a = %s", (1,))
    assert prepared.rows == [(1,)]
    mariadb.run("ALTER TABLE grows ADD b DATE DEFAULT '2024-05-06', MODIFY a VARCHAR(9)")
    assert wire.ask("SELECT * FROM grows WHERE a = %s", (1,)).rows == [("1", date(2024, 5, 6))]
    mariadb.run("DROP TABLE grows")
    assert refusal(wire, "SELECT * FROM grows WHERE a = %s", (1,))[0] == 1146


def test_a_reset_drops_what_was_prepared(dial: Dial, things: MariadbServer) -> None:
    wire = dial(things)
    sql = "SELECT id FROM things WHERE id = %s"
    by_text_and_prepared(wire, sql, (1,))
    refusal(wire, "SELECT nothing FROM things", ())
    assert RESET in wire.take_commands()
    by_text_and_prepared(wire, sql, (1,))


def test_a_statement_that_the_server_has_lost_is_asked_as_text(dial: Dial, things: MariadbServer) -> None:
    wire = dial(things)
    sql = "SELECT id FROM things WHERE id = %s"
    by_text_and_prepared(wire, sql, (1,))
    wire.lose_statement()
    for _ in range(3):
        assert wire.ask(sql, (1,)).rows == [(1,)]
    assert wire.take_commands() == [EXECUTE, CLOSE, QUERY, QUERY, QUERY]


def test_no_more_is_prepared_than_there_is_room_for(dial: Dial, mariadb: MariadbServer) -> None:
    with_room = int(mariadb.run("SELECT @@max_prepared_stmt_count")[0][0])
    mariadb.run("SET GLOBAL max_prepared_stmt_count = 1")
    try:
        first, second = dial(mariadb), dial(mariadb)
        by_text_and_prepared(first, "SELECT 1 FROM DUAL WHERE 1 = %s", (1,))
        for _ in range(USES + 1):
            assert second.ask("SELECT 1 FROM DUAL WHERE 1 = %s", (1,)).rows == [(1,)]
        assert second.take_commands() == [QUERY] * (USES - 1) + [PREPARE, QUERY, QUERY]
        for _ in range(USES + 1):
            assert first.ask("SELECT 2 FROM DUAL WHERE 1 = %s", (1,)).rows == [(2,)]
        # It gives its own statement back, and prepares nothing any more.
        assert first.take_commands() == [QUERY] * (USES - 1) + [PREPARE, CLOSE, QUERY, QUERY]
        status = "SHOW GLOBAL STATUS LIKE 'Prepared_stmt_count'"
        wait_until(lambda: mariadb.run(status)[0][1] == "0")
    finally:
        mariadb.run(f"SET GLOBAL max_prepared_stmt_count = {with_room}")
