"""What a statement's text says of what it would leave behind on its connection."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from reqpool.kinds.mysql_statement import check
from reqpool_contract.errors import UsageError
from support.wait import wait_until
from support.work import Job, assert_lines_grow_linearly, assert_time_grows_linearly

LEAVES_SOMETHING = [
    "SET @a = 1", "set session sql_mode = ''", "SET@a=1", "SET NAMES utf8mb4", "SET autocommit = 0",
    "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", "SET ROLE captain", "SET @@session.sql_mode = ''",
    "SET STATEMENT max_statement_time = 1 FOR SET @a = 1",
    "USE other", "use`other`",
    "BEGIN", "BEGIN NOT ATOMIC SELECT 1; END", "START TRANSACTION", "START  TRANSACTION READ ONLY",
    "COMMIT", "ROLLBACK", "SAVEPOINT a", "ROLLBACK TO a", "RELEASE SAVEPOINT a", "XA START 'x'",
    "CREATE TEMPORARY TABLE t (a INT)", "CREATE OR REPLACE TEMPORARY TABLE t (a INT)",
    "DROP TEMPORARY TABLE t",
    "LOCK TABLES t READ", "LOCK INSTANCE FOR BACKUP", "UNLOCK TABLES", "BACKUP STAGE START",
    "FLUSH TABLES WITH READ LOCK", "FLUSH TABLES t FOR EXPORT",
    "PREPARE s FROM 'SELECT 1'", "EXECUTE s", "EXECUTE IMMEDIATE 'SET @a = 1'", "DEALLOCATE PREPARE s",
    "HANDLER t OPEN",
    "SELECT GET_LOCK('a', 1)", "select get_lock ('a', 1)", "DO GET_LOCK('a', 1)",
    "SELECT @a := 1", "SELECT @a:=a FROM t", "SELECT a INTO @a FROM t", "UPDATE t SET a = (@b := a)",
    "SELECT a INTO@a FROM t", "SELECT 1 INTO/**/@`a b`", "CALL p(@a)", "CALL p(1, @'a')", "SELECT @a",
    "(SELECT @a)", "LOAD DATA INFILE '/x' INTO TABLE t (@a) SET b = 1",
    "  \n\tset @a = 1", "-- who\nSET @a = 1", "# who\nSET @a = 1", "/* who */ SET @a = 1",
    "/* a */ /* b */ BEGIN",
    "/*!50000 SET @a = 1 */", "/*M!100100 SET @a = 1*/", "/*! SET */ @a = 1",
    "SELECT /*! GET_LOCK('a', 1) */",
    "SELECT '\\'', GET_LOCK('a', 1)", "SELECT 'it''s', @a := 1", "SELECT `a``b`, \"x\\\"\", @a := 1",
    "SELECT 1 -- '\n, GET_LOCK('a', 1)",
    "IF 1 THEN SET @@time_zone = '+09:00'; END IF", "again: LOOP SET @a = 1; END LOOP",
    "CASE 1 WHEN 1 THEN DO 1; END CASE", "<<again>> LOOP DO 1; END LOOP",
    "SET STATEMENT session_track_state_change = 0 FOR SELECT f()", "SELECT s.currval",
    "CREATE TEMPORARY TABLE t (event INT)",
    "SELECT LASTVAL(s)", "SELECT previous value\nFOR s",
    "SELECT LAST_INSERT_ID()", "INSERT INTO t VALUES (LAST_INSERT_ID())", "SELECT FOUND_ROWS()",
    "SELECT ROW_COUNT( )", "SHOW WARNINGS", "show errors", "SHOW COUNT(*) WARNINGS",
    "GET DIAGNOSTICS @a = NUMBER",
    "SELECT @@warning_count", "SELECT @@identity",
]  # fmt: skip

LEAVES_NOTHING = [
    "SELECT 1", "select * from t where a = 'SET @a = 1'", "SELECT 'GET_LOCK(1)', \"@a := 1\", `INTO @a`",
    "SELECT '\\'; SET @a = 1'", "SELECT 1 -- SET @a := 1", "SELECT 1 # GET_LOCK('a', 1)",
    "SELECT 1 /* SET @a := 1 */", "SELECT /*+ MAX_EXECUTION_TIME(1000) */ 1", "SELECT 5--1", "SELECT(1)",
    "(SELECT 1) UNION (SELECT 2)", "WITH c AS (SELECT 1) SELECT * FROM c", "VALUES (1)",
    "INSERT INTO sets VALUES ('a@b.example')", "REPLACE INTO t VALUES (1)", "DELETE FROM t", "TRUNCATE t",
    "UPDATE t SET a = 1", "UPDATE counter SET id = LAST_INSERT_ID(id + 1)", "SELECT settled FROM t",
    "CREATE TABLE t (a INT)", "ALTER TABLE t ADD b INT", "DROP TABLE t", "CREATE DATABASE d",
    "CREATE PROCEDURE p() BEGIN SET @a := 1; SELECT GET_LOCK('a', 1); END",
    "CREATE DEFINER = root TRIGGER x BEFORE INSERT ON t FOR EACH ROW SET @a := NEW.a",
    "CALL p()", "DO SLEEP(0)", "SHOW TABLES", "EXPLAIN SELECT 1", "ANALYZE TABLE t", "KILL 5",
    "SET GLOBAL max_connections = 5", "SET @@global.max_connections = 5", "SET PASSWORD = PASSWORD('x')",
    "SET DEFAULT ROLE captain", "SET STATEMENT max_statement_time = 1 FOR SELECT 1", "SET PERSIST a = 1",
    "FLUSH PRIVILEGES", "FLUSH TABLES", "GRANT ALL ON *.* TO me", "SELECT @@version",
    "GRANT ALL ON *.* TO me@localhost", "CREATE USER 'me'@'%'", "SHOW GRANTS FOR 'me'@'%'",
    "SELECT 'me@localhost', @@global.version",
    "LOAD DATA INFILE '/x' INTO TABLE t", "SELECT warnings FROM t", "SELECT RELEASE_LOCK('a')",
    "SELECT @@session_track_state_change", "SHOW VARIABLES LIKE 'session_track_%'", "SELECT IF(1, 2, 3)",
    "SELECT 'unfinished", "SELECT /* unfinished",
]  # fmt: skip


@pytest.mark.parametrize("sql", LEAVES_SOMETHING)
def test_a_statement_that_leaves_something_is_refused_on_a_shared_connection(sql: str) -> None:
    with pytest.raises(UsageError, match=r"use pool\.mysql_session|utf8mb4"):
        check(sql, pinned=False)


@pytest.mark.parametrize("sql", LEAVES_SOMETHING)
def test_a_session_may_run_it(sql: str) -> None:
    check(sql, pinned=True)


@pytest.mark.parametrize("sql", LEAVES_NOTHING)
@pytest.mark.parametrize("pinned", [False, True], ids=["shared", "session"])
def test_a_statement_that_leaves_nothing_goes_anywhere(sql: str, pinned: bool) -> None:
    check(sql, pinned=pinned)


@pytest.mark.parametrize("pinned", [False, True], ids=["shared", "session"])
@pytest.mark.parametrize(
    ("sql", "text"),
    [
        ("LOAD DATA LOCAL INFILE '/etc/passwd' INTO TABLE t", "LOAD DATA LOCAL is refused"),
        ("load data low_priority local infile 'x' into table t", "LOAD DATA LOCAL is refused"),
        ("/*! LOAD XML LOCAL INFILE 'x' INTO TABLE t */", "LOAD DATA LOCAL is refused"),
        ("SET NAMES latin1", "the character set is always utf8mb4"),
        ("SET NAMES 'gbk'", "the character set is always utf8mb4"),
        ("SET @a = 1, NAMES gbk", "the character set is always utf8mb4"),
        ("SET CHARACTER SET gbk", "the character set is always utf8mb4"),
        ("SET character_set_client = gbk", "the character set is always utf8mb4"),
        ("SET SESSION character_set_results = gbk", "the character set is always utf8mb4"),
        ("SET @@session.character_set_connection = gbk", "the character set is always utf8mb4"),
        ("", "an empty statement"),
        (" -- nothing", "an empty statement"),
        ("/* nothing */", "an empty statement"),
    ],
)
def test_what_no_connection_is_asked(sql: str, text: str, pinned: bool) -> None:
    with pytest.raises(UsageError, match=text):
        check(sql, pinned=pinned)


@pytest.mark.parametrize(
    "sql", ["SET NAMES utf8mb4", "SET NAMES 'utf8mb4' COLLATE utf8mb4_bin", "SET @names = 1"]
)
def test_a_session_may_choose_a_collation(sql: str) -> None:
    check(sql, pinned=True)


def test_the_refusal_says_what_and_the_way_out() -> None:
    with pytest.raises(UsageError) as caught:
        check("SELECT GET_LOCK('a', 1)", pinned=False)
    assert caught.value.text == (
        "'GET_LOCK' leaves something on the connection, which others share: use pool.mysql_session(url), "
        "whose connection is not shared"
    )


@pytest.mark.parametrize(
    ("begin", "part", "end"),
    [
        ("SELECT '", "\\'", " 'x' #"), ("SELECT ", "/*", " 'x'"), ("SELECT ", "/* ", " 'x'"),
        ("SELECT `", "``", " 'x' #"), ("", "-- ", "\nSELECT 1"),
    ],
)  # fmt: skip
def test_long_statements_are_looked_at_in_linear_time(begin: str, part: str, end: str) -> None:
    def looking(count: int) -> Job:
        sql = begin + part * count + end
        return lambda: check(sql, pinned=False)

    assert_lines_grow_linearly(looking, 10_000)
    assert_time_grows_linearly(looking, 50_000)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT t.currval FROM counters AS t", "SELECT counters.currval FROM counters",
        "SELECT currval FROM t",
        "SELECT `t`.currval, 't'.`currval` FROM `t`", "UPDATE t SET a = t.currval", "SELECT t.currval_x",
        "INSERT INTO t (currval, lastval, get_lock, found_rows, row_count) VALUES (1, 2, 3, 4, 5)",
        "INSERT INTO lastval (a) VALUES (1)", "INSERT INTO row_count () VALUES ()",
        "REPLACE INTO get_lock (a) VALUES (1)",
        "CREATE TABLE get_lock (a INT, KEY lastval (a))", "CREATE TABLE IF NOT EXISTS lastval (a INT)",
        "CALL lastval(1)", "SELECT shop.lastval(1)", "WITH lastval (a) AS (SELECT 1) SELECT * FROM lastval",
        "SELECT last_insert_id FROM t", "SELECT t.warnings, errors FROM t", "SELECT my_get_lock(1)",
        "SELECT previous, value FROM t", "SELECT previous value FROM t FOR UPDATE",
        "UPDATE t SET session_track_id = 1 WHERE session_track_x = 2",
        "LOAD DATA INFILE '/x' INTO TABLE local", "SELECT 'a\\'b', 'GET_LOCK(1)', 'c'",
        "SELECT 'it''s GET_LOCK(1)', \"say \"\"GET_LOCK(1)\"\"\", `a``GET_LOCK(1)`",
    ],
)  # fmt: skip
def test_columns_and_tables_may_be_called_what_is_looked_for(sql: str) -> None:
    check(sql, pinned=False)


@pytest.mark.parametrize(
    "sql", ["SET @a = (SELECT b FROM t WHERE x IN (1, names))", "SET @a = f(charset, names)"]
)
def test_a_session_may_read_columns_called_like_a_character_set(sql: str) -> None:
    check(sql, pinned=True)


@pytest.mark.parametrize(
    "sql", ["SET CHAR SET gbk", "SET@@character_set_client=gbk", "SET @a = f(1, 2), NAMES gbk"]
)
def test_every_spelling_of_another_character_set_is_refused(sql: str) -> None:
    with pytest.raises(UsageError, match="utf8mb4"):
        check(sql, pinned=True)


MEGA = 1 << 20


@pytest.fixture
def others_turns() -> Iterator[Callable[[], int]]:
    """Returns how many turns another thread has had; it takes all that it can get."""
    turns = 0
    over = threading.Event()

    def take_turns() -> None:
        nonlocal turns
        while not over.is_set():
            turns += 1
            time.sleep(0)

    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=take_turns)
    thread.start()
    try:
        wait_until(lambda: turns > 0)
        yield lambda: turns
    finally:
        over.set()
        thread.join()
        sys.setswitchinterval(interval_s)


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO t VALUES ('" + "a" * 12 * MEGA + "')",
        "INSERT INTO t VALUES " + "(0x41424344,3)," * MEGA,
        "SELECT " + "get_lock," * MEGA,
    ],
    ids=["one string", "numbers", "names"],
)
def test_other_threads_run_while_a_long_statement_is_looked_at(
    sql: str, others_turns: Callable[[], int]
) -> None:
    """A regular expression over 12 MB is one step, during which the GIL is held."""
    before = others_turns()
    check(sql, pinned=False)
    assert others_turns() - before > 20
