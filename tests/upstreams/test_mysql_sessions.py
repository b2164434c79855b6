"""Transactions and other sessions of MySQL through a whole cluster, against a real MariaDB.

The upstream has one connection: whoever comes after a session gets the session's, if it was not closed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

import reqpool
from support.cluster import Cluster, cluster
from support.mariadb import MariadbServer
from support.wait import wait_until


class Stop(Exception):
    """What goes wrong in an app."""


TIMEOUT_S = 10.0
"""Of ``pool``: see conftest.py."""


@pytest.fixture(scope="module")
def running(mariadb: MariadbServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    config = tmp_path_factory.mktemp("sessions") / "reqpool.toml"
    config.write_text(
        f"""
        [upstreams.bank]
        url = "mysql://free@{mariadb.address}/test"
        max_connections = 1

        [upstreams.elsewhere]
        url = "mysql://free@localhost:{mariadb.port}/"
        max_connections = 2
        """
    )
    with cluster(workers=2, arguments=["--config", str(config)]) as started:
        yield started


@pytest.fixture
def accounts(mariadb: MariadbServer) -> None:
    mariadb.run(
        "CREATE OR REPLACE TABLE accounts (name VARCHAR(20) PRIMARY KEY, balance INT NOT NULL)",
        "INSERT INTO accounts VALUES ('anna', 100), ('bert', 0)",
        "CREATE OR REPLACE FUNCTION variable_left() RETURNS INT RETURN @left",
    )


pytestmark = pytest.mark.usefixtures("accounts")


def balances(mariadb: MariadbServer) -> dict[str, int]:
    """What others see."""
    return dict(mariadb.run("SELECT name, balance FROM accounts"))


def connection_id(pool: reqpool.Pool) -> int:
    return int(pool.mysql("bank", "SELECT CONNECTION_ID()").result().rows[0][0])


MOVE = "UPDATE accounts SET balance = balance + %s WHERE name = %s"


# --- transactions ------------------------------------------------------------------------------------


def test_what_is_committed_stays_and_is_seen_by_others_only_then(
    pool: reqpool.Pool, mariadb: MariadbServer
) -> None:
    with pool.mysql_session("bank") as session:
        session.query(MOVE, (-30, "anna")).result()
        session.query(MOVE, (30, "bert")).result()
        assert balances(mariadb) == {"anna": 100, "bert": 0}
        session.commit().result()
        assert balances(mariadb) == {"anna": 70, "bert": 30}


def test_what_is_rolled_back_never_was(pool: reqpool.Pool, mariadb: MariadbServer) -> None:
    with pool.mysql_session("bank") as session:
        session.query(MOVE, (-30, "anna")).result()
        session.rollback().result()
        assert session.query("SELECT balance FROM accounts WHERE name = 'anna'").result().rows == [(100,)]
    assert balances(mariadb) == {"anna": 100, "bert": 0}


def test_after_a_commit_the_next_transaction_begins(pool: reqpool.Pool, mariadb: MariadbServer) -> None:
    with pool.mysql_session("bank") as session:
        session.query(MOVE, (1, "bert")).result()
        session.commit().result()
        session.query(MOVE, (10, "bert")).result()
        session.rollback().result()
        session.query(MOVE, (100, "bert")).result()
        session.commit().result()
    assert balances(mariadb)["bert"] == 101


def test_leaving_the_block_commits(pool: reqpool.Pool, mariadb: MariadbServer) -> None:
    with pool.mysql_session("bank") as session:
        session.query(MOVE, (5, "bert")).result()
    assert balances(mariadb)["bert"] == 5


def test_what_raises_in_the_block_rolls_back(pool: reqpool.Pool, mariadb: MariadbServer) -> None:
    with contextlib.suppress(Stop), pool.mysql_session("bank") as session:
        session.query(MOVE, (-30, "anna")).result()
        raise Stop
    assert connection_id(pool)  # waits until the connection is free again
    assert balances(mariadb) == {"anna": 100, "bert": 0}


def test_savepoints(pool: reqpool.Pool, mariadb: MariadbServer) -> None:
    with pool.mysql_session("bank") as session:
        session.query(MOVE, (1, "bert")).result()
        session.query("SAVEPOINT here").result()
        session.query(MOVE, (10, "bert")).result()
        session.query("ROLLBACK TO here").result()
        session.commit().result()
    assert balances(mariadb)["bert"] == 1


def test_an_error_in_a_transaction_is_the_apps_to_handle(pool: reqpool.Pool, mariadb: MariadbServer) -> None:
    with pool.mysql_session("bank") as session:
        session.query(MOVE, (5, "bert")).result()
        with pytest.raises(reqpool.MysqlError) as caught:
            session.query("INSERT INTO accounts VALUES ('anna', 1)").result()
        assert (caught.value.number, caught.value.sqlstate) == (1062, "23000")
        session.commit().result()
    assert balances(mariadb)["bert"] == 5


def test_a_lock_that_somebody_else_has_is_an_error_with_its_number(
    pool: reqpool.Pool, mariadb: MariadbServer
) -> None:
    with mariadb.connect() as other, other.cursor() as cursor, pool.mysql_session("bank") as session:
        cursor.execute("BEGIN")
        cursor.execute("UPDATE accounts SET balance = 1 WHERE name = 'anna'")
        session.query("SET innodb_lock_wait_timeout = 1").result()
        with pytest.raises(reqpool.MysqlError) as caught:
            session.query(MOVE, (5, "anna")).result()
        assert caught.value.number == 1205
        cursor.execute("ROLLBACK")


# --- afterwards --------------------------------------------------------------------------------------

LEAVES = {
    "a transaction": ["UPDATE accounts SET balance = 0"],
    "a variable": ["SET @left = 1"],
    "autocommit": ["SET autocommit = 1"],
    "sql_mode": ["SET SESSION sql_mode = 'NO_BACKSLASH_ESCAPES,ANSI_QUOTES'"],
    "isolation": ["SET SESSION TRANSACTION ISOLATION LEVEL READ UNCOMMITTED"],
    "a temporary table": ["CREATE TEMPORARY TABLE left_behind (a INT)"],
    "locked tables": ["LOCK TABLES accounts WRITE"],
    "a lock": ["SELECT GET_LOCK('left behind', 1)"],
    "a read lock": ["FLUSH TABLES WITH READ LOCK"],
    "a prepared statement": ["PREPARE left_behind FROM 'SELECT 1'"],
    "a handler": ["HANDLER accounts OPEN"],
    "another database": ["USE bench"],
    "another collation": ["SET NAMES utf8mb4 COLLATE utf8mb4_bin"],
    "an error": ["UPDATE accounts SET balance = 5", "INSERT INTO accounts VALUES ('anna', 1)"],
}


@pytest.mark.parametrize("name", LEAVES)
def test_a_sessions_connection_is_reset_before_anyone_else_gets_it(
    pool: reqpool.Pool, mariadb: MariadbServer, name: str
) -> None:
    facts = (
        "SELECT CONNECTION_ID(), variable_left(), @@autocommit, @@sql_mode, @@tx_isolation, DATABASE(), "
        "@@collation_connection, @@session_track_state_change, IS_USED_LOCK('left behind'), '\\\\'"
    )
    before = pool.mysql("bank", facts).result().rows
    with pool.mysql_session("bank") as session:
        for sql in LEAVES[name]:
            error = session.query(sql).exception()
            assert error is None or (name == "an error" and "1062" in str(error))
        if name in ("a transaction", "an error"):
            session.rollback().result()
    assert pool.mysql("bank", facts).result().rows == before  # the same connection, too
    for sql in ("SELECT * FROM left_behind", "HANDLER accounts READ FIRST"):
        with mariadb.connect() as other, other.cursor() as cursor:
            cursor.execute("SET lock_wait_timeout = 1")
            cursor.execute(MOVE, (0, "anna"))  # nothing is locked
        with pytest.raises((reqpool.MysqlError, reqpool.UsageError)):
            pool.mysql("bank", sql).result()
    assert balances(mariadb) == {"anna": 100, "bert": 0}


@pytest.mark.parametrize(
    "statements",
    [
        ["SET ROLE captain"],
        ["CREATE OR REPLACE PROCEDURE takes_role() SET ROLE captain", "CALL takes_role()"],
        ["EXECUTE IMMEDIATE 'SET ROLE captain'"],
        ["SET session_track_state_change = 0", "SET ROLE captain"],
        [
            "CREATE OR REPLACE PROCEDURE takes_role() SET ROLE captain",
            "SET STATEMENT max_statement_time = 5 FOR CALL takes_role()",
        ],
        [
            "CREATE OR REPLACE FUNCTION role_taken() RETURNS INT BEGIN SET ROLE captain; RETURN 1; END",
            "SET @a = role_taken()",
        ],
    ],
)
def test_a_connection_with_what_a_reset_does_not_undo_is_closed(
    pool: reqpool.Pool, mariadb: MariadbServer, statements: list[str]
) -> None:
    mariadb.run("GRANT captain TO free")
    before = connection_id(pool)
    with pool.mysql_session("bank") as session:
        for sql in statements:
            session.query(sql).result()
        assert session.query("SELECT CURRENT_ROLE()").result().rows == [("captain",)]
    assert pool.mysql("bank", "SELECT CURRENT_ROLE()").result().rows == [(None,)]
    assert connection_id(pool) != before


UNTOLD = {
    "a trigger's variable": (
        "CREATE OR REPLACE TRIGGER sets BEFORE INSERT ON accounts FOR EACH ROW SET @left = 7",
        "INSERT INTO accounts VALUES ('anna', 1)",
        "SELECT variable_left()",
        (None,),
    ),
    "a temporary table that hides another": (
        "CREATE OR REPLACE FUNCTION hides() RETURNS INT BEGIN CREATE TEMPORARY TABLE accounts (a INT); "
        "SIGNAL SQLSTATE '45000'; RETURN 1; END",
        "SELECT hides()",
        "SELECT COUNT(*) FROM accounts",
        (2,),
    ),
    "a time zone": (
        "CREATE OR REPLACE TRIGGER sets BEFORE INSERT ON accounts FOR EACH ROW SET time_zone = '+09:00'",
        "INSERT INTO accounts VALUES ('anna', 1)",
        "SELECT @@time_zone",
        ("SYSTEM",),
    ),
    "a role": (
        "CREATE OR REPLACE FUNCTION role_taken() RETURNS INT BEGIN SET ROLE captain; "
        "SIGNAL SQLSTATE '45000'; RETURN 1; END",
        "SELECT role_taken()",
        "SELECT CURRENT_ROLE()",
        (None,),
    ),
    "tracking": (
        "CREATE OR REPLACE PROCEDURE silences() BEGIN SET session_track_state_change = 0, "
        "session_track_system_variables = ''; SET time_zone = '+09:00'; END",
        "CALL silences()",
        "SELECT @@time_zone",
        ("SYSTEM",),
    ),
    "a read lock": (
        "CREATE OR REPLACE PROCEDURE locks() FLUSH TABLES WITH READ LOCK",
        "CALL locks()",
        "UPDATE accounts SET balance = 100 WHERE name = 'anna'",
        None,
    ),
    "a backup lock": (
        "CREATE OR REPLACE PROCEDURE locks() EXECUTE IMMEDIATE 'BACKUP LOCK test.accounts'",
        "CALL locks()",
        "UPDATE accounts SET balance = 100 WHERE name = 'anna'",
        None,
    ),
}


@pytest.mark.parametrize("name", UNTOLD)
def test_what_the_server_does_not_tell_of_is_not_left_for_others(
    pool: reqpool.Pool, mariadb: MariadbServer, name: str
) -> None:
    """Of a statement that failed it tells nothing, and of some locks never."""
    makes, leaves, looks, right = UNTOLD[name]
    mariadb.run("GRANT captain TO free", "GRANT ALL ON *.* TO free", makes)
    try:
        pool.mysql("bank", leaves).exception()
        found = pool.mysql("bank", looks).result()
        assert right is None or found.rows == [right]
        with mariadb.connect() as other, other.cursor() as cursor:
            cursor.execute("SET lock_wait_timeout = 1")
            cursor.execute(MOVE, (0, "anna"))  # nothing is locked
    finally:
        mariadb.run("DROP TRIGGER IF EXISTS sets")


PREPARED = [
    "XA START 'left'",
    "INSERT INTO accounts VALUES ('carl', 1)",
    "XA END 'left'",
    "XA PREPARE 'left'",
]


@pytest.mark.parametrize(
    "statements",
    [
        PREPARED,
        [f"CREATE OR REPLACE PROCEDURE prepares() BEGIN {'; '.join(PREPARED)}; END", "CALL prepares()"],
        PREPARED[:3],
    ],
    ids=["prepared", "in a procedure", "not prepared"],
)
def test_a_connection_with_an_xa_transaction_is_closed(
    pool: reqpool.Pool, mariadb: MariadbServer, statements: list[str]
) -> None:
    """COM_RESET_CONNECTION leaves InnoDB unusable there."""
    before = connection_id(pool)
    with pool.mysql_session("bank") as session:
        for sql in statements:
            session.query(sql).result()
        session.close()
    try:
        for _ in range(3):
            with pool.mysql_session("bank") as session:
                session.query(MOVE, (1, "anna")).result()
        assert connection_id(pool) != before
        assert balances(mariadb) == {"anna": 103, "bert": 0}
    finally:
        if statements != PREPARED[:3]:
            mariadb.run("XA ROLLBACK 'left'")


def test_a_connection_without_a_database_that_got_one_is_closed(pool: reqpool.Pool) -> None:
    with pool.mysql_session("elsewhere") as session:
        session.query("USE bench").result()
        number = session.query("SELECT CONNECTION_ID()").result().rows[0][0]
    found = pool.mysql("elsewhere", "SELECT DATABASE(), CONNECTION_ID()").result().rows
    assert found[0][0] is None
    assert found[0][1] != number


def test_a_session_that_leaves_utf8mb4_ends(pool: reqpool.Pool) -> None:
    session = pool.mysql_session("bank")
    with pytest.raises(reqpool.UsageError, match="utf8mb4"):
        session.query("SET NAMES gbk")
    session.query("EXECUTE IMMEDIATE 'SET NAMES gbk'").result()  # not seen; the server tells
    with pytest.raises(reqpool.ConnectionLost):
        session.query("SELECT 1").result()
    session.close()
    assert pool.mysql("bank", "SELECT @@character_set_client").result().rows == [("utf8mb4",)]


def test_sessions_one_after_the_other_use_one_connection(pool: reqpool.Pool, mariadb: MariadbServer) -> None:
    numbers = set()
    for amount in range(20):
        with pool.mysql_session("bank") as session:
            session.query(MOVE, (amount, "bert")).result()
            numbers.add(session.query("SELECT CONNECTION_ID()").result().rows[0][0])
            session.commit().result()
    assert len(numbers) == 1
    assert balances(mariadb)["bert"] == sum(range(20))


# --- bad days ----------------------------------------------------------------------------------------


ANNA = "SELECT balance FROM accounts WHERE name = 'anna'"


def test_a_session_whose_connection_is_killed_is_lost_and_undone(
    pool: reqpool.Pool, mariadb: MariadbServer
) -> None:
    session = pool.mysql_session("bank")
    session.query(MOVE, (-30, "anna")).result()
    number = session.query("SELECT CONNECTION_ID()").result().rows[0][0]
    mariadb.run(f"KILL {number}")
    with pytest.raises(reqpool.ConnectionLost):
        session.query(MOVE, (30, "bert")).result()
    with pytest.raises(reqpool.ConnectionLost):
        session.commit().result()
    session.close()
    assert pool.mysql("bank", ANNA).result().rows == [(100,)]


def test_a_request_of_a_session_that_times_out_ends_the_session(
    pool: reqpool.Pool, mariadb: MariadbServer
) -> None:
    session = pool.mysql_session("bank")
    session.query(MOVE, (-30, "anna")).result()
    with pytest.raises(reqpool.RequestTimeout):
        session.query("SELECT SLEEP(20)", timeout=0.5).result()
    with pytest.raises(reqpool.ConnectionLost):
        session.query("SELECT 'not the answer of SLEEP'").result()
    session.close()
    mariadb.close_connections("free")
    assert pool.mysql("bank", ANNA).result().rows == [(100,)]


def test_a_session_that_is_dropped_in_a_request_leaves_nothing(
    pool: reqpool.Pool, mariadb: MariadbServer
) -> None:
    session = pool.mysql_session("bank")
    session.query(MOVE, (-30, "anna")).result()
    asleep = session.query("SELECT SLEEP(20)")
    running = "SELECT 1 FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP%'"
    wait_until(lambda: mariadb.run(running), 10, "it sleeps")
    session.close()
    with pytest.raises(reqpool.Cancelled):
        asleep.result()
    mariadb.close_connections("free")
    assert pool.mysql("bank", ANNA).result().rows == [(100,)]
