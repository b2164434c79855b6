"""MySQL through a whole cluster, against a real MariaDB."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import reqpool
from reqpool_workers.protocols.mysql import CONNECTIONS
from support.certificates import Certificates, make
from support.cluster import Cluster, cluster
from support.mariadb import ODD_PASSWORD, PASSWORD, MariadbServer
from support.wait import wait_until

MEGA = 1 << 20


TIMEOUT_S = 20.0
"""Of ``pool``: see conftest.py."""


@pytest.fixture(scope="module")
def running(mariadb: MariadbServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    config = tmp_path_factory.mktemp("mysql") / "reqpool.toml"
    config.write_text(
        f"""
        [defaults]
        idle_timeout_s = 3.0

        [upstreams.large]
        url = "mysql://free@localhost:{mariadb.port}/"
        max_response_bytes = {48 * MEGA}

        [upstreams.orders]
        url = "mysql://odd@{mariadb.address}/bench"
        password_file = "password"
        """
    )
    (config.parent / "password").write_text(ODD_PASSWORD)
    (config.parent / "password").chmod(0o600)
    with cluster(workers=2, arguments=["--config", str(config)]) as started, started.no_fds_left():
        yield started


@pytest.fixture
def table(mariadb: MariadbServer) -> str:
    """An empty table with a key and a text."""
    mariadb.run(
        "CREATE OR REPLACE TABLE things (id INT AUTO_INCREMENT PRIMARY KEY, name VARCHAR(100) UNIQUE)"
    )
    return "things"


def executed(server: MariadbServer) -> int:
    """Return how many prepared statements a server has executed."""
    return int(server.run("SHOW GLOBAL STATUS LIKE 'Com_stmt_execute'")[0][1])


# --- log-ins -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "password"), [("app", PASSWORD), ("ed", PASSWORD), ("odd", ODD_PASSWORD), ("free", "")]
)
def test_native_ed25519_and_no_passwords(
    pool: reqpool.Pool, mariadb: MariadbServer, user: str, password: str
) -> None:
    found = pool.mysql(mariadb.url(user, password), "SELECT CURRENT_USER(), DATABASE()").result()
    assert found.rows == [(f"{user}@%", "test")]


def test_without_a_database(pool: reqpool.Pool, mariadb: MariadbServer) -> None:
    assert pool.mysql(mariadb.url(database=""), "SELECT DATABASE()").result().rows == [(None,)]


def test_by_the_unix_socket(pool: reqpool.Pool, mariadb: MariadbServer) -> None:
    url = f"mysql://root@/test?socket={mariadb.socket}"
    assert pool.mysql(url, "SELECT CURRENT_USER(), DATABASE()").result().rows == [("root@localhost", "test")]


def test_by_the_name_of_an_upstream(pool: reqpool.Pool, mariadb: MariadbServer) -> None:
    found = pool.mysql("orders", "SELECT CURRENT_USER(), DATABASE()").result()
    assert found.rows == [("odd@%", "bench")]
    with pool.mysql_session("orders") as session:
        assert session.query("SELECT @@autocommit").result().rows == [(0,)]


@pytest.mark.parametrize(
    ("user", "password", "database", "text"),
    [
        ("app", "wrong", "test", r"access denied: Access denied for user 'app'@.* \(1045"),
        ("ed", "wrong", "test", r"access denied: Access denied for user 'ed'@.* \(1045"),
        ("nobody", "", "test", r"access denied: .*1045"),
        ("app", PASSWORD, "nowhere", r"unknown database: Unknown database 'nowhere' \(1049"),
        ("poor", PASSWORD, "bench", r"access denied to the database: .*1044"),
    ],
)
def test_a_refused_log_in_says_which(
    pool: reqpool.Pool, mariadb: MariadbServer, user: str, password: str, database: str, text: str
) -> None:
    with pytest.raises(reqpool.ConnectFailed, match=text) as caught:
        pool.mysql(mariadb.url(user, password, database=database), "SELECT 1").result()
    assert password not in ("wrong", PASSWORD) or password not in str(caught.value)
    assert caught.value.phase == "connect"


def test_users_with_different_passwords_never_share_a_connection(
    pool: reqpool.Pool, mariadb: MariadbServer
) -> None:
    """The good ones' connections stand idle while the wrong password is tried."""
    good, wrong = mariadb.url(), mariadb.url(password="wrong")
    for _ in range(20):
        answers = [pool.mysql(url, "SELECT CURRENT_USER()") for url in (good, wrong, good, wrong)]
        for url, answer in zip((good, wrong, good, wrong), answers, strict=True):
            if url == good:
                assert answer.result().rows == [("app@%",)]
            else:
                with pytest.raises(reqpool.ConnectFailed, match="access denied"):
                    answer.result()


def test_databases_do_not_share_a_connection(pool: reqpool.Pool, mariadb: MariadbServer) -> None:
    for database in ("test", "bench", "test", "bench"):
        found = pool.mysql(mariadb.url(database=database), "SELECT DATABASE()").result()
        assert found.rows == [(database,)]


# --- TLS ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def secured(certificates: Certificates) -> Iterator[MariadbServer]:
    with MariadbServer(tls=certificates.server) as server:
        yield server


def test_tls_with_an_authority_of_ones_own(
    pool: reqpool.Pool, secured: MariadbServer, certificates: Certificates
) -> None:
    tls = reqpool.Tls(ca=str(certificates.ca))
    for url in (secured.url("secure", scheme="mysqls"), secured.url("secure")):
        found = pool.mysql(url, "SHOW STATUS LIKE 'Ssl_cipher'", tls=tls).result()
        assert found.rows[0][1]
    with pool.mysql_session(secured.url("ed", scheme="mysqls"), tls=tls) as session:
        assert session.query("SELECT %s", ("ü" * 100_000,)).result().rows == [("ü" * 100_000,)]


def test_statements_are_prepared_over_tls(
    pool: reqpool.Pool, secured: MariadbServer, certificates: Certificates
) -> None:
    tls = reqpool.Tls(ca=str(certificates.ca))
    before = executed(secured)
    sql = "SELECT 'a' FROM DUAL WHERE 7 = %s"
    for number in range(10):
        found = pool.mysql(secured.url("secure"), sql, (number,), tls=tls).result()
        assert found.rows == [("a",)] * (number == 7)
    assert executed(secured) - before >= 5


def test_without_tls_a_user_who_must_use_it_is_refused(pool: reqpool.Pool, secured: MariadbServer) -> None:
    with pytest.raises(reqpool.ConnectFailed, match="access denied"):
        pool.mysql(secured.url("secure"), "SELECT 1").result()


def test_a_server_without_tls_is_not_spoken_to_in_clear(pool: reqpool.Pool, mariadb: MariadbServer) -> None:
    with pytest.raises(reqpool.ConnectFailed, match="TLS is required, but the server does not offer it"):
        pool.mysql(mariadb.url(scheme="mysqls"), "SELECT 1").result()


def test_an_unknown_authority_is_refused(pool: reqpool.Pool, secured: MariadbServer) -> None:
    with pytest.raises(reqpool.ConnectFailed, match="unknown authority"):
        pool.mysql(secured.url(scheme="mysqls"), "SELECT 1").result()


@pytest.mark.parametrize(
    ("which", "text"), [("expired", "has expired"), ("wrong_name", "is not for 127.0.0.1")]
)
def test_a_bad_certificate_is_said_to_be(
    pool: reqpool.Pool, certificates: Certificates, which: str, text: str
) -> None:
    with MariadbServer(tls=getattr(certificates, which)) as server:
        tls = reqpool.Tls(ca=str(certificates.ca))
        with pytest.raises(reqpool.ConnectFailed, match=text):
            pool.mysql(server.url(), "SELECT 1", tls=tls).result()
        trusting = reqpool.Tls(verify=False)
        assert pool.mysql(server.url(), "SELECT 1", tls=trusting).result().rows == [(1,)]


# --- values ------------------------------------------------------------------------------------------

ALL_TYPES = """
CREATE OR REPLACE TABLE every (
    id INT PRIMARY KEY, ti TINYINT, tu TINYINT UNSIGNED, si SMALLINT, mi MEDIUMINT, bi BIGINT,
    bu BIGINT UNSIGNED, zf INT ZEROFILL, bo BOOLEAN, fl FLOAT, do DOUBLE, de DECIMAL(30, 10),
    du DECIMAL(5) UNSIGNED, bt BIT(12), da DATE, dt DATETIME, d6 DATETIME(6), ts TIMESTAMP NULL,
    t3 TIMESTAMP(3) NULL, tm TIME, t6 TIME(6), ye YEAR,
    ch CHAR(10), vc VARCHAR(50), tt TINYTEXT, tx TEXT, mt MEDIUMTEXT, lt LONGTEXT, js JSON,
    bn BINARY(4), vb VARBINARY(50), tb TINYBLOB, bl BLOB, mb MEDIUMBLOB, lb LONGBLOB,
    en ENUM('small', 'grün'), se SET('a', 'b', 'ü'), ge GEOMETRY, po POINT, uu UUID, i6 INET6,
    la VARCHAR(50) CHARACTER SET latin1, u3 VARCHAR(50) CHARACTER SET utf8mb3,
    uc VARCHAR(50) CHARACTER SET ucs2
) CHARACTER SET utf8mb4
"""
FULL_ROW: dict[str, Any] = {
    "ti": -128, "tu": 255, "si": -32768, "mi": 8388607, "bi": -(2**63), "bu": 2**64 - 1, "zf": 7, "bo": True,
    "fl": 1.5, "do": -1.7976931348623157e308, "de": Decimal("-12345678901234567890.0123456789"), "du": 99999,
    "bt": b"\x0f\xff", "da": date(2024, 2, 29), "dt": datetime(2024, 2, 29, 23, 59, 59),
    "d6": datetime(2024, 2, 29, 23, 59, 59, 5), "ts": datetime(2024, 6, 1, 1, 2, 3),
    "t3": datetime(2024, 6, 1, 1, 2, 3, 250_000), "tm": timedelta(hours=-838, minutes=-59, seconds=-59),
    "t6": time(1, 2, 3, 400), "ye": 2155, "ch": "ü", "vc": "€🙂\\'\"\0\n\x1a%s", "tt": "", "tx": "x" * 300,
    "mt": "ü" * 70_000, "lt": "y" * 20_000_00, "js": '{"a": "ü\\n"}', "bn": b"\0\1\2\3", "vb": b"'\\\0\xff",
    "tb": b"", "bl": bytes(range(256)), "mb": bytes(70_000), "lb": b"\xff" * 100_000, "en": "grün",
    "se": "a,ü",
    "uu": "123e4567-e89b-12d3-a456-426655440000", "i6": "2001:db8::1", "la": "ü", "u3": "€", "uc": "ü€",
}  # fmt: skip


@pytest.fixture(scope="module")
def every(mariadb: MariadbServer) -> Iterator[Any]:
    """A table of all types; a cursor of PyMySQL to compare with."""
    with mariadb.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SET GLOBAL sql_mode = ''")  # so that zeros in dates are taken
        cursor.execute("SET SESSION sql_mode = ''")
        cursor.execute(ALL_TYPES)
        yield cursor


def test_all_types_come_back_as_pymysql_has_them(
    pool: reqpool.Pool, mariadb: MariadbServer, every: Any
) -> None:
    url = mariadb.url()
    names = ", ".join(FULL_ROW)
    places = ", ".join(f"%({name})s" for name in FULL_ROW)
    pool.mysql(url, f"INSERT INTO every (id, {names}) VALUES (1, {places})", FULL_ROW).result()
    pool.mysql(url, "UPDATE every SET ge = POINT(1, 2), po = POINT(3, 4) WHERE id = 1").result()
    pool.mysql(url, "INSERT INTO every (id) VALUES (2)").result()  # everything else NULL
    zeros = ", ".join(
        f"{name} = %({name})s"
        for name in ("da", "dt", "d6", "ts", "t3", "tm", "ye", "ch", "vc", "bn", "vb", "bt")
    )
    pool.mysql(
        url,
        f"INSERT INTO every SET id = 3, {zeros}",
        {
            "da": "0000-00-00", "dt": "2024-00-00 00:00:00", "d6": "0000-00-00 00:00:00.5", "ts": 0, "t3": 0,
            "tm": 0, "ye": 0, "ch": "", "vc": "", "bn": b"", "vb": b"", "bt": 0,
        },
    ).result()  # fmt: skip
    ours = pool.mysql(url, "SELECT * FROM every ORDER BY id").result()
    every.execute("SELECT * FROM every ORDER BY id")
    theirs = list(every.fetchall())
    for our, their in zip(ours.rows, theirs, strict=True):
        for column, one, other in zip(ours.columns, our, their, strict=True):
            assert (type(one), one) == (type(other), other), column
    assert ours.columns == tuple(field[0] for field in every.description)
    # And what went in came out.
    row = dict(zip(ours.columns, ours.rows[0], strict=True))
    for name, value in FULL_ROW.items():
        expected = timedelta(hours=1, minutes=2, seconds=3, microseconds=400) if name == "t6" else value
        assert row[name] == expected, name
    assert set(ours.rows[1][1:]) == {None}


def test_statements_and_answers_are_in_utf8mb4(pool: reqpool.Pool, mariadb: MariadbServer) -> None:
    """The server's own default is latin1."""
    found = pool.mysql(
        mariadb.url(),
        "SELECT @@character_set_client, @@character_set_connection, @@character_set_results, "
        "@@character_set_server, %s, HEX('🙂')",
        ("ü€🙂",),
    ).result()
    assert found.rows == [("utf8mb4", "utf8mb4", "utf8mb4", "latin1", "ü€🙂", "F09F9982")]


VALUES = [
    0, -1, 2**63, 2**64 - 1, 1.5, 5e-324, 1.7976931348623157e308, -0.1, True, False, None, "", "it's",
    "\\", "\\'",
    "'; DROP TABLE things; -- ", "%s %% %(a)s", "".join(map(chr, range(1, 300))), "\0", "🙂",
    b"", bytes(range(256)),
    b"'\\\0", date(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999999), timedelta(days=34, microseconds=1),
    -timedelta(hours=1), Decimal("-0.0000000001"), Decimal(10**40),
]  # fmt: skip


@pytest.mark.parametrize(
    "mode", ["", "NO_BACKSLASH_ESCAPES", "ANSI_QUOTES", "NO_BACKSLASH_ESCAPES,ANSI_QUOTES"]
)
def test_parameters_come_out_as_they_went_in_whatever_the_sql_mode(
    pool: reqpool.Pool, mariadb: MariadbServer, mode: str
) -> None:
    with pool.mysql_session(mariadb.url()) as session:
        session.query("SET SESSION sql_mode = %s", (mode,)).result()
        (row,) = session.query("SELECT " + ", ".join(["%s"] * len(VALUES)), VALUES).result().rows
        for value, came in zip(VALUES, row, strict=True):
            if isinstance(value, date | datetime | timedelta):
                assert came == session_text(value)
            elif isinstance(value, float):
                assert came == value or math.isclose(came, value)
            else:
                assert came == value
        found = session.query(
            "SELECT 'yes' FROM DUAL WHERE 2 IN %s AND 'x' NOT IN %s", ([1, 2], ("\\", "'"))
        ).result()
        assert found.rows == [("yes",)]


def session_text(value: Any) -> str:
    """A date's or time's literal is a string to the server until it is compared or stored."""
    if isinstance(value, timedelta):
        seconds = abs(value) // timedelta(seconds=1)
        micros = f".{abs(value).microseconds:06d}" if value.microseconds else ""
        sign = "-" if value < timedelta() else ""
        return f"{sign}{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{micros}"
    return str(value)


def test_a_server_without_backslash_escapes_is_escaped_for(pool: reqpool.Pool) -> None:
    hostile = ["\\", "\\'", "\\' OR 1 = 1 -- ", "'", "\\\\"]
    with MariadbServer("--sql-mode=NO_BACKSLASH_ESCAPES") as server:
        for value in hostile:
            assert pool.mysql(server.url(), "SELECT %s", (value,)).result().rows == [(value,)]


MODES = ["NO_BACKSLASH_ESCAPES", ""]
HOSTILE = ("\\", ", SLEEP(9) -- ", "\\' UNION SELECT 'mine' -- ", "C:\\new", b"\\'\x00\xff")


@pytest.mark.parametrize("mode", MODES)
def test_a_trigger_that_sets_sql_mode_lets_no_parameter_become_sql(pool: reqpool.Pool, mode: str) -> None:
    """MariaDB restores the mode at the trigger's end, and not the flag that tells of it."""
    select = f"SELECT {', '.join(['%s'] * len(HOSTILE))}"
    with MariadbServer(f"--sql-mode={MODES[not MODES.index(mode)]}") as server:
        server.run(
            "CREATE TABLE bench.t (a INT)",
            f"CREATE TRIGGER bench.sets BEFORE INSERT ON bench.t FOR EACH ROW SET @@sql_mode = '{mode}'",
            f"CREATE PROCEDURE bench.sets() SET sql_mode = '{mode}'",
        )
        url = server.url(database="bench")
        for sql in ("INSERT INTO t VALUES (1)", "CALL sets()"):
            pool.mysql(url, sql).result()
            for _ in range(3):
                assert pool.mysql(url, select, HOSTILE).result().rows == [HOSTILE]
            with pool.mysql_session(url) as session:
                session.query(sql).result()
                assert session.query(select, HOSTILE).result().rows == [HOSTILE]
                session.query("SET sql_mode = 'ANSI'").result()
                session.query(sql).result()
                assert session.query(select, HOSTILE).result().rows == [HOSTILE]


def test_random_bytes_and_texts_survive(pool: reqpool.Pool, mariadb: MariadbServer) -> None:
    chance = random.Random(7)
    for _ in range(50):
        data = bytes(chance.choices(b"'\\\"\0%sa\xc3\xa4\xff", k=chance.randrange(200)))
        text = "".join(chance.choices("'\\\"%sä€🙂\n", k=chance.randrange(200)))
        found = pool.mysql(mariadb.url(), "SELECT %(d)s, %(t)s", {"d": data, "t": text}).result()
        assert found.rows == [(data, text)]


@pytest.mark.parametrize(
    "value", [object(), float("nan"), {1, 2}, "\ud800"], ids=["object", "nan", "set", "surrogate"]
)
def test_an_unsupported_parameter_is_a_usage_error_at_the_call(
    pool: reqpool.Pool, mariadb: MariadbServer, value: Any
) -> None:
    pending = pool.stats().pending
    with pytest.raises(reqpool.UsageError, match="parameter 1"):
        pool.mysql(mariadb.url(), "SELECT %s", (value,))
    assert pool.stats().pending == pending


# --- answers -----------------------------------------------------------------------------------------


def test_affected_rows_last_id_warnings(pool: reqpool.Pool, mariadb: MariadbServer, table: str) -> None:
    url = mariadb.url()
    made = pool.mysql(url, f"INSERT INTO {table} (name) VALUES ('a'), ('b'), ('c')").result()
    assert (made.affected, made.last_id, made.warnings, made.rows) == (3, 1, 0, [])
    assert made.info == "Records: 3  Duplicates: 0  Warnings: 0"
    changed = pool.mysql(url, f"UPDATE {table} SET name = CONCAT(name, '!') WHERE id > %s", (1,)).result()
    assert changed.affected == 2
    same = pool.mysql(url, f"UPDATE {table} SET name = name").result()
    assert same.affected == 0  # rows changed, not rows found, as PyMySQL counts
    warned = pool.mysql(url, "SELECT CAST('1x' AS INT)").result()
    assert (warned.rows, warned.warnings) == ([(1,)], 1)
    assert pool.mysql(url, f"DELETE FROM {table}").result().affected == 3


def test_several_results_of_a_procedure(pool: reqpool.Pool, mariadb: MariadbServer) -> None:
    mariadb.run(
        "CREATE OR REPLACE PROCEDURE two() BEGIN SELECT 1 AS a; SELECT 'x' AS b, NULL AS c; "
        "UPDATE things SET id = 1 WHERE 1 = 0; END"
    )
    found = pool.mysql(mariadb.url(), "CALL two()").result()
    assert found.rows == [(1,)]
    assert [(one.columns, one.rows) for one in found.sets] == [
        (("a",), [(1,)]),
        (("b", "c"), [("x", None)]),
        ((), []),
    ]


def test_a_procedure_that_fails_after_a_result_is_its_error(
    pool: reqpool.Pool, mariadb: MariadbServer
) -> None:
    mariadb.run(
        "CREATE OR REPLACE PROCEDURE fails() BEGIN SELECT 1; "
        "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no'; END"
    )
    with pytest.raises(reqpool.MysqlError, match="no") as caught:
        pool.mysql(mariadb.url(), "CALL fails()").result()
    assert (caught.value.number, caught.value.sqlstate) == (1644, "45000")


@pytest.mark.parametrize(
    ("sql", "number", "sqlstate"),
    [
        ("SELEC 1", 1064, "42000"),
        ("SELECT * FROM nowhere", 1146, "42S02"),
        ("INSERT INTO things VALUES (1, 'a'), (1, 'b')", 1062, "23000"),
        ("SELECT 1; SELECT 2", 1064, "42000"),
        ("SELECT nothing", 1054, "42S22"),
    ],
)
def test_a_servers_error_has_its_number_and_sqlstate(
    pool: reqpool.Pool, mariadb: MariadbServer, table: str, sql: str, number: int, sqlstate: str
) -> None:
    with pytest.raises(reqpool.MysqlError) as caught:
        pool.mysql(mariadb.url(), sql).result()
    error = caught.value
    assert (error.number, error.sqlstate) == (number, sqlstate)
    assert error.origin is not None
    assert error.origin.startswith(f"mysql://app@{mariadb.address}/test")
    assert str(number) in str(error)


def test_an_error_leaves_the_connection_in_use(
    pool: reqpool.Pool, mariadb: MariadbServer, table: str
) -> None:
    url = mariadb.url()
    before = pool.mysql(url, "SELECT 1").result() and set(mariadb.connections())
    for _ in range(5):
        with pytest.raises(reqpool.MysqlError):
            pool.mysql(url, "SELECT * FROM nowhere").result()
    # Those of earlier tests may be on their way out; none was made in the place of one.
    after = set(mariadb.connections())
    assert after
    assert after <= before


def test_local_infile_is_refused(pool: reqpool.Pool, mariadb: MariadbServer, tmp_path: Path) -> None:
    """The server would allow it (--local-infile=1)."""
    for sql in (
        "LOAD DATA LOCAL INFILE '/etc/hostname' INTO TABLE things",
        "load data local infile 'x' into table t",
    ):
        with pytest.raises(reqpool.UsageError, match="LOAD DATA LOCAL is refused"):
            pool.mysql(mariadb.url(), sql)
    # What gets past the look at the text the server refuses, since the log-in did not offer it.
    with pool.mysql_session(mariadb.url()) as session, pytest.raises(reqpool.MysqlError, match=r"4166|1148"):
        session.query(
            "EXECUTE IMMEDIATE CONCAT('LOAD DATA LO', 'CAL INFILE ''/etc/hostname'' INTO TABLE things')"
        ).result()


def test_a_row_of_over_16_mb(pool: reqpool.Pool, mariadb: MariadbServer) -> None:
    size = 20 * MEGA
    found = pool.mysql("large", "SELECT REPEAT('x', %s), 7", (size,)).result()
    assert found.rows == [("x" * size, 7)]
    # Just at the border of one packet and of two.
    for size in (0xFFFFFF - 5, 0xFFFFFF - 4, 0xFFFFFF - 3, 2 * 0xFFFFFF - 9):
        ((value,),) = pool.mysql("large", "SELECT REPEAT('y', %s)", (size,)).result().rows
        assert value == "y" * size


def test_an_answer_over_the_limit_is_a_bad_response(pool: reqpool.Pool, mariadb: MariadbServer) -> None:
    with pytest.raises(reqpool.BadResponse, match="longer than 16777216 bytes"):
        pool.mysql(mariadb.url(), "SELECT REPEAT('x', %s)", (17 * MEGA,)).result()
    with pytest.raises(reqpool.BadResponse, match=f"longer than {48 * MEGA} bytes"):
        pool.mysql("large", "SELECT REPEAT('x', %s)", (49 * MEGA,)).result()
    assert pool.mysql(mariadb.url(), "SELECT 1").result().rows == [(1,)]


def test_a_statement_of_nearly_16_mb(pool: reqpool.Pool, mariadb: MariadbServer) -> None:
    value = "ü'\\" * (3 * MEGA)
    assert pool.mysql(mariadb.url(), "SELECT LENGTH(%s)", (value,)).result().rows == [(12 * MEGA,)]


def test_many_rows_and_many_requests(pool: reqpool.Pool, mariadb: MariadbServer) -> None:
    sql = "SELECT seq, CONCAT('row ', seq) FROM seq_%d_to_%d"
    answers = {first: pool.mysql(mariadb.url(), sql % (first, first + 2_000)) for first in range(1, 60)}
    for first, answer in answers.items():
        assert answer.result().rows == [(number, f"row {number}") for number in range(first, first + 2_001)]


def test_connections_are_shared_and_few(pool: reqpool.Pool, mariadb: MariadbServer) -> None:
    answers = [pool.mysql(mariadb.url(), "SELECT %s", (number,)) for number in range(2_000)]
    assert [answer.result().rows[0][0] for answer in answers] == list(range(2_000))
    assert len(mariadb.connections()) <= CONNECTIONS


# --- shared connections stay as they are -------------------------------------------------------------


@pytest.mark.parametrize(
    "sql", ["SET @a = 1", "USE bench", "BEGIN", "CREATE TEMPORARY TABLE x (a INT)", "LOCK TABLES things READ"]
)
def test_what_would_leave_state_is_refused_outside_a_session(
    pool: reqpool.Pool, mariadb: MariadbServer, sql: str
) -> None:
    with pytest.raises(reqpool.UsageError, match=r"use pool\.mysql_session"):
        pool.mysql(mariadb.url(), sql)


PROCEDURES = {
    "variable": "SET @left = 1",
    "sql_mode": "SET SESSION sort_buffer_size = 65536",
    "temporary": "CREATE TEMPORARY TABLE left_behind (a INT)",
    "begins": "BEGIN START TRANSACTION; INSERT INTO things (name) VALUES ('half'); END",
    "begins_and_fails": "BEGIN START TRANSACTION; INSERT INTO things (name) VALUES ('half'); "
    "SIGNAL SQLSTATE '45000'; END",
    "autocommit": "SET autocommit = 0",
    "role": "SET ROLE captain",
    "prepares": "PREPARE left_behind FROM 'SELECT 1'",
}


@pytest.mark.parametrize("name", PROCEDURES)
def test_what_a_procedure_leaves_is_noticed_and_the_connection_closed(
    pool: reqpool.Pool, mariadb: MariadbServer, table: str, name: str
) -> None:
    mariadb.run(
        f"CREATE OR REPLACE PROCEDURE leaves_{name}() {PROCEDURES[name]}",
        "CREATE OR REPLACE FUNCTION variable_left() RETURNS INT RETURN @left",
    )
    url = mariadb.url(database="test")
    mariadb.close_connections()
    wait_until(lambda: not mariadb.connections(), 10, "no connection")
    if name == "begins_and_fails":
        with pytest.raises(reqpool.MysqlError):
            pool.mysql(url, f"CALL leaves_{name}()").result()
    else:
        pool.mysql(url, f"CALL leaves_{name}()").result()
        wait_until(lambda: not mariadb.connections(), 10, "the connection closed")
    wait_until(lambda: mariadb.run(f"SELECT * FROM {table}") == [], 10, "rolled back")
    facts = "SELECT variable_left(), @@autocommit, CURRENT_ROLE()"
    assert pool.mysql(url, facts).result().rows == [(None, 1, None)]


# --- what users of other clients reported ---------------------------------------------------------------


def test_bytes_behind_a_binary_introducer_are_stored(pool: reqpool.Pool, mariadb: MariadbServer) -> None:
    """PyMySQL#549: Django's BinaryField writes ``_binary %s``."""
    mariadb.run("CREATE OR REPLACE TABLE files (content BLOB)")
    content = bytes(range(256)) + b"\\'"
    url = mariadb.url()
    pool.mysql(
        url, "INSERT INTO files VALUES (_binary %s), (_binary /* a */ %s)", (content, content)
    ).result()
    assert pool.mysql(url, "SELECT content FROM files").result().rows == [(content,)] * 2
    with pool.mysql_session(url) as session:
        session.query("SET sql_mode = 'NO_BACKSLASH_ESCAPES'").result()
        found = session.query(
            "SELECT _binary %s, _latin1 %s, _utf8mb4 %s", (content, b"\xfc\\", "ü\\'")
        ).result()
        assert found.rows == [(content, "ü\\", "ü\\'")]


def test_a_result_of_more_columns_than_a_table_may_have(pool: reqpool.Pool, mariadb: MariadbServer) -> None:
    found = pool.mysql(mariadb.url(), "SELECT " + ",".join(map(str, range(5000)))).result()
    assert found.rows == [tuple(range(5000))]


def test_statements_with_bytes_in_them_can_be_listed(pool: reqpool.Pool, mariadb: MariadbServer) -> None:
    """PyMySQL#1001, mysqlclient#553"""
    url = mariadb.url()
    with pool.mysql_session(url) as holder:
        holder.query("SELECT GET_LOCK('listed', 10)").result()
        waits = pool.mysql_session(url)
        waiting = waits.query("SELECT GET_LOCK('listed', 20), %s", (b"\xff\xfe",))

        def seen() -> list[str]:
            rows = pool.mysql(url, "SHOW FULL PROCESSLIST").result().dicts()
            return [row["Info"] for row in rows if "'listed', 20" in str(row["Info"])]

        wait_until(lambda: bool(seen()))
        assert "_binary'\udcff\udcfe'" in seen()[0]
        holder.query("SELECT RELEASE_LOCK('listed')").result()
        assert waiting.result().rows == [(1, b"\xff\xfe")]
        waits.close()


def test_columns_called_like_functions_that_look_back(pool: reqpool.Pool, mariadb: MariadbServer) -> None:
    mariadb.run("CREATE OR REPLACE TABLE lastval (currval INT, row_count INT)")
    url = mariadb.url()
    pool.mysql(url, "INSERT INTO lastval (currval, row_count) VALUES (%s, %s)", (1, 2)).result()
    found = pool.mysql(url, "SELECT lastval.currval, l.row_count FROM lastval, lastval AS l").result()
    assert found.rows == [(1, 2)]


def test_what_is_asked_again_and_again_is_prepared(pool: reqpool.Pool, mariadb: MariadbServer) -> None:
    """In sessions it is not: they may change what a text means."""
    mariadb.run("CREATE OR REPLACE TABLE days (id INT PRIMARY KEY, day DATE)")
    mariadb.run("INSERT INTO days SELECT seq, '2024-01-01' + INTERVAL seq DAY FROM seq_0_to_19")
    before = executed(mariadb)
    sql = "SELECT day FROM days WHERE id = %s"
    for number in range(20):
        found = pool.mysql(mariadb.url(), sql, (number,)).result()
        assert found.rows == [(date(2024, 1, 1) + timedelta(days=number),)]
    assert executed(mariadb) - before > 10
    with pool.mysql_session(mariadb.url()) as session:
        before = executed(mariadb)
        for number in range(5):
            assert session.query(sql, (number,)).result().rows == [(date(2024, 1, 1 + number),)]
        assert executed(mariadb) == before
