"""Parameters: what travels, as what, and what it is in the end in SQL."""

from __future__ import annotations

from collections import OrderedDict
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, IntFlag, StrEnum
from typing import Any

import msgpack
import pytest

from reqpool.kinds.mysql_parameters import pack, template
from reqpool_contract.errors import UsageError
from reqpool_workers.protocols.mysql_literals import read_typed, render
from support.work import Job, assert_lines_grow_linearly, assert_time_grows_linearly


class Colour(Enum):
    RED = 1


class Number(IntEnum):
    ONE = 1


class Word(StrEnum):
    YES = "yes"


class Text(str):
    __slots__ = ()


def sent(sql: str, params: Any) -> list[Any]:
    """What travels."""
    payload = pack(template(sql), params)
    assert payload[:1] == b"\x00"
    return list(msgpack.unpackb(payload[1:]))


def written(sql: str, params: Any, *, backslashes: bool = True) -> str:
    """The SQL in the end."""
    return render(read_typed(pack(template(sql), params)), backslashes).decode()


# --- types -------------------------------------------------------------------------------------------

LITERALS: list[tuple[Any, str]] = [
    (0, "0"), (-5, "-5"), (2**63, "9223372036854775808"), (2**64, "18446744073709551616"),
    (-(10**40), "-1" + "0" * 40),
    (True, "1"), (False, "0"), (None, "NULL"),
    (1.5, "1.5e0"), (-0.0, "-0.0e0"), (1e100, "1e+100"), (5e-324, "5e-324"), (0.1, "0.1e0"),
    (Decimal("1.10"), "1.10"), (Decimal("-1E+3"), "-1000"), (Decimal("1E-7"), "0.0000001"),
    (Decimal("-0"), "-0"),
    ("", "''"), ("abc", "'abc'"), ("it's", "'it''s'"), ("ü€🙂", "'ü€🙂'"), ("%s%", "'%s%'"),
    (b"", "_binary''"), (b"a'b", "_binary'a''b'"), (bytearray(b"x"), "_binary'x'"),
    (memoryview(b"x"), "_binary'x'"),
    (date(2024, 2, 29), "'2024-02-29'"), (date(1, 1, 1), "'0001-01-01'"),
    (datetime(2024, 2, 29, 23, 59, 1), "'2024-02-29 23:59:01'"),
    (datetime(2024, 2, 29, 23, 59, 1, 5), "'2024-02-29 23:59:01.000005'"),
    (time(1, 2, 3), "'01:02:03'"), (time(1, 2, 3, 400), "'01:02:03.000400'"),
    (timedelta(hours=100, minutes=1), "'100:01:00'"), (timedelta(seconds=-1), "'-00:00:01'"),
    (timedelta(days=-1, microseconds=1), "'-23:59:59.999999'"), (timedelta(), "'00:00:00'"),
    ([1, "a", None], "(1,'a',NULL)"), ((b"x", Decimal(1)), "(_binary'x',1)"),
    ([date(2024, 1, 1)], "('2024-01-01')"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "literal"), LITERALS, ids=lambda value: repr(value)[:40])
def test_a_parameter_becomes_a_literal(value: Any, literal: str) -> None:
    assert written("SELECT %s", (value,)) == f"SELECT {literal}"
    assert written("SELECT %(a)s", {"a": value}) == f"SELECT {literal}"
    assert written("SELECT %s, %s", [value, 1]) == f"SELECT {literal}, 1"


@pytest.mark.parametrize(
    ("value", "with_backslashes", "without"),
    [
        ("\\", r"'\\'", "'\\'"),
        ("\\'", r"'\\'''", r"'\'''"),
        ("a\\", r"'a\\'", "'a\\'"),
        ("\n\0\x1a", "'\n\0\x1a'", "'\n\0\x1a'"),
        (b"\\'\\", r"_binary'\\''\\'", r"_binary'\''\'"),
    ],
)
def test_a_backslash_is_doubled_where_it_escapes(value: Any, with_backslashes: str, without: str) -> None:
    assert written("%s", (value,), backslashes=True) == with_backslashes
    assert written("%s", (value,), backslashes=False) == without
    assert written("%s", ([value],), backslashes=False) == f"({without})"


def test_parameters_travel_typed() -> None:
    values = (1, "1", 1.0, None, True, b"1", Decimal(1), 2**70, date(2024, 1, 1), time(1), [1, b"1"])
    ext = msgpack.ExtType
    assert sent("%s" * len(values), values)[1] == [
        1, "1", 1.0, None, True, ext(5, b"1"), ext(1, b"1"), ext(2, str(2**70).encode()),
        ext(4, b"2024-01-01"),
        ext(4, b"01:00:00"), [1, ext(5, b"1")],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Colour.RED, "type Colour"),
        (object(), "type object"),
        ({1, 2}, "type set"),
        ({"a": 1}, "type dict"),
        (1 + 2j, "type complex"),
        (range(3), "type range"),
        (float("nan"), "is nan, which SQL cannot express"),
        (float("inf"), "is inf"),
        (Decimal("NaN"), "is NaN"),
        (Decimal("Infinity"), "is Infinity"),
        (Decimal("1E+1000"), "outside the range of DECIMAL"),
        (10**65, "outside the range of DECIMAL"),
        (-(10**400), "outside the range of DECIMAL"),
        (datetime(2024, 1, 1, tzinfo=UTC), "with a time zone"),
        (time(1, tzinfo=UTC), "with a time zone"),
        ("\ud800", "cannot be encoded as UTF-8"),
        ([], "an empty list"),
        ((), "an empty list"),
        ([[1]], "a list of lists"),
        ([1, object()], "type object"),
        ([float("nan")], "is nan"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_mysql_cannot_take_is_a_usage_error(value: Any, text: str) -> None:
    for values in ((value,), (1, value)):
        sql = ", ".join(["%s"] * len(values))
        with pytest.raises(UsageError, match=rf"^parameter \d.*{text}"):
            pack(template(sql), values)


class Day(date):
    """As those of other libraries' that write themselves in their own way."""

    def isoformat(self) -> str:
        return "tomorrow"

    __str__ = isoformat


class Moment(datetime):
    def isoformat(self, sep: str = "T", timespec: str = "auto") -> str:
        return "now"

    __str__ = isoformat


@pytest.mark.parametrize(
    ("value", "literal"),
    [
        (Number.ONE, "1"), (Text("x"), "'x'"), (Word.YES, "'yes'"),
        (Day(2026, 1, 2), "'2026-01-02'"), (Moment(2026, 1, 2, 3, 4, 5, 6), "'2026-01-02 03:04:05.000006'"),
        ([Number.ONE, 2], "(1,2)"),
    ],
)  # fmt: skip
def test_a_value_of_a_derived_type_is_what_it_is_derived_from(value: Any, literal: str) -> None:
    assert written("%s", (value,)) == literal


# --- placeholders ------------------------------------------------------------------------------------


def test_percent_signs() -> None:
    assert written("SELECT '100%%', %s", (5,)) == "SELECT '100%', 5"
    assert written("SELECT '%%s', '%%(a)s', %(a)s", {"a": 5}) == "SELECT '%s', '%(a)s', 5"
    assert written("SELECT 1", ()) == "SELECT 1"
    assert written("SELECT '%%'", {}) == "SELECT '%'"
    assert written("SELECT %s", ("%s %% %(a)s",)) == "SELECT '%s %% %(a)s'"


def test_names_may_come_twice_and_there_may_be_others() -> None:
    assert written("%(a)s %(b)s %(a)s", {"a": 1, "b": 2, "c": object()}) == "1 2 1"
    assert written("%(a b-c)s", OrderedDict({"a b-c": 1})) == "1"


@pytest.mark.parametrize("sql", ["%d", "LIKE 'a%'", "%(a)d", "%(a)", "%5s", "100% s", "%"])
def test_what_is_no_placeholder_is_a_usage_error(sql: str) -> None:
    with pytest.raises(UsageError, match=r"is not a placeholder.*%% for a percent sign"):
        template(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT '%s'", "SELECT 'it''s %s'", "SELECT '\\\\%s'", 'SELECT "%(a)s"', "SELECT `%s`",
        "SELECT 'a' LIKE '%%%s%%'", "SELECT 1 /* %s */", "SELECT 1 -- %s", "SELECT 1 # %s\n", "SELECT '%s",
        "SELECT %s, '%s'", "SELECT '$[%s]'", "SELECT 5*/* %s */5", "SELECT /*! 5 */ 5*/* %s */5",
        r"SELECT 'it\'s %s'", r'SELECT "say \"%s\""', r"SELECT '\\\' %s'", r"SELECT 'C:\', '%s'",
        r"""SELECT "a\", '%s'""", r"SELECT \'%s'", r"SELECT 'it\'s', 'that\'s %s', 1",
        "SELECT /*!999999 it's */ '%s'", "SELECT /*M! it's */ '%s'", "SELECT 1 /*!999999 + %s */",
        "SELECT /*!999999 a /* ' */ ' */ '%s'", "SELECT 5 --\xa0'a\n%s'", "SELECT 5 --\x7f'\n, '%s'",
    ],
)  # fmt: skip
def test_a_placeholder_in_quotes_is_a_usage_error_since_the_value_would_be_sql(sql: str) -> None:
    with pytest.raises(UsageError, match=r"%.* at character \d+ of the SQL is inside quotes or a comment"):
        template(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 'a', %s", "SELECT 'a' LIKE '%%s', %s", "SELECT a--%s", "SELECT /*! %s */ 1",
        r"SELECT 'it\'s', %s", r"SELECT 'it\'s', %s, 'that\'s'", r"SELECT '\\', %s", r"SELECT \N, %s",
        r"SELECT %s LIKE 'a' ESCAPE '\'", r'SELECT "\"", %s, "\""', "SELECT /*!80000 5, */ %s",
        "SELECT '\\'', %s", "SELECT 'a' LIKE 'b' ESCAPE '\\', %s", "SELECT `a``b`, %s, 'it''s'",
        "SELECT 1 -- '\n, %s",
        "x'%%' %s", "SELECT 5--'', %s", "SELECT 5*/* a */%s", "SELECT /*! 5*/* a */%s",
    ],
)  # fmt: skip
def test_a_placeholder_beside_quotes_is_one_whatever_the_backslash_means(sql: str) -> None:
    assert template(sql).places == 1


@pytest.mark.parametrize(
    ("sql", "backslashes"),
    [
        (r"SELECT 'it\'s #1', %s", True), (r"SELECT 'it\'s -- so', %s", True), (r"SELECT '\\', %s", None),
        (r"SELECT 'a' LIKE 'b' ESCAPE '\' AND %s", False), (r"SELECT '#\', %s, 'b'", False),
    ],
)  # fmt: skip
def test_a_placeholder_that_is_in_quotes_on_some_connections_goes_to_others_only(
    sql: str, backslashes: bool | None
) -> None:
    payload = pack(template(sql), ("x",))
    for on_connection in (True, False, None):
        if backslashes is None or backslashes is on_connection:
            assert render(read_typed(payload), on_connection) == (sql % "'x'").encode()
        else:
            with pytest.raises(UsageError, match="treats a backslash on this connection"):
                render(read_typed(payload), on_connection)


def test_a_statement_of_many_placeholders_and_quotes_is_read_in_linear_time() -> None:
    def reading(count: int) -> Job:
        sql = "SELECT " + "'%%', %s, " * count + "1"

        def job() -> None:
            assert template(sql).places == count

        return job

    assert_lines_grow_linearly(reading, 2_000)
    assert_time_grows_linearly(reading, 5_000)


def test_both_sorts_of_placeholders_are_a_usage_error() -> None:
    with pytest.raises(UsageError, match="by position or by name"):
        template("%s %(a)s")


@pytest.mark.parametrize(
    ("sql", "params", "text"),
    [
        ("%s", (), "has 1 placeholders, but there are 0 parameters"),
        ("%s", (1, 2), "has 1 placeholders, but there are 2"),
        ("SELECT 1", (1,), "has 0 placeholders, but there are 1"),
        ("%(a)s %(b)s %(c)s", {"b": 1}, "no parameter named 'a', 'c'"),
        ("%(a)s", (1,), "params must be a dict, not tuple"),
        ("%s", {"a": 1}, "named parameters need"),
        ("%s", 5, r"not int; for one write \(x,\)"),
        ("%s", "x", "not str"),
        ("%s", b"x", "not bytes"),
        ("%s", {1}, "not set"),
        ("%s", iter((1,)), "not tuple_iterator"),
    ],
)
def test_parameters_that_do_not_fit_are_a_usage_error(sql: str, params: Any, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        pack(template(sql), params)


def test_any_sequence_will_do() -> None:
    assert written("%s %s", range(2)) == "0 1"


# --- introducers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "value", "literal", "in_digits"),
    [
        ("_binary %s", b"\x00'\\", b"_binary '\x00''\\\\'", b"_binary X'00275c'"),
        ("_binary%s", b"a", b"_binary'a'", b"_binary'a'"),
        ("_BINARY\n\t%s", b"\\", b"_BINARY\n\t'\\\\'", b"_BINARY\n\tX'5c'"),
        ("_binary /* who */ -- a\n # b\n %s", b"a", b"_binary /* who */ -- a\n # b\n 'a'", None),
        ("_utf8mb4 %s", "\u00fc\\", b"_utf8mb4 '\xc3\xbc\\\\'", b"_utf8mb4 X'c3bc5c'"),
        ("_binary %s", "\u00fc", b"_binary '\xc3\xbc'", None),
        ("_latin1 %s", b"\xfc", b"_latin1 '\xfc'", None),
        ("_latin1 %s", "u", b"_latin1 'u'", None),
        ("_binary %s", date(2024, 1, 1), b"_binary '2024-01-01'", None),
    ],
)
def test_behind_an_introducer_a_parameter_brings_none_of_its_own(
    sql: str, value: Any, literal: bytes, in_digits: bytes | None
) -> None:
    """PyMySQL#549: Django's BinaryField writes ``_binary %s``."""
    assert render(read_typed(pack(template(sql), (value,))), True) == literal
    assert render(read_typed(pack(template(sql.replace("%s", "%(a)s")), {"a": value})), True) == literal
    if in_digits is not None:
        assert render(read_typed(pack(template(sql), (value,))), None) == in_digits


@pytest.mark.parametrize(
    "before",
    [
        "SELECT x_binary ", "SELECT t._binary ", "SELECT @_binary ", "SELECT `_binary` ", "SELECT '_binary' ",
        "SELECT -- _binary\n", "SELECT # _binary\n", "SELECT /* _binary */", "SELECT _binary, ",
        "SELECT _bin ", "SELECT _binary_id ", "SELECT '-- _binary\n', ",
    ],
)  # fmt: skip
def test_what_only_looks_like_an_introducer_is_none(before: str) -> None:
    assert render(read_typed(pack(template(before + "%s"), (b"a",))), True) == before.encode() + b"_binary'a'"


def test_each_parameter_has_its_own_introducer_or_none() -> None:
    sql, values = "INSERT INTO t VALUES (%s, _binary %s), (%s, _latin1 %s)", (b"a", b"b", 3, b"d")
    assert written(sql, values) == "INSERT INTO t VALUES (_binary'a', _binary 'b'), (3, _latin1 'd')"


@pytest.mark.parametrize(
    ("sql", "value", "text"),
    [
        ("_latin1 %s", "\u00fc", r"parameter 1 follows _latin1, .*CONVERT\(%s USING latin1\)"),
        ("_utf16 %s", "u", r"follows _utf16, .*CONVERT\(%s USING utf16\)"),
        ("_binary %s", None, "follows _binary, which takes bytes or str: write only %s"),
        ("_binary %s", 5, "which takes bytes or str"),
        ("_binary %s", [b"a"], "which takes bytes or str"),
        ("_binary %s", Decimal(1), "which takes bytes or str"),
        ("X%s", "41", "'X%s' at character 0 .* parameters are quoted automatically"),
        ("SELECT n%s", "a", "'n%s' at character 7 .* parameters are quoted automatically"),
        ("SELECT b%(a)s", "1", "parameters are quoted automatically"),
    ],
)
def test_what_would_be_other_data_behind_an_introducer_is_a_usage_error(
    sql: str, value: Any, text: str
) -> None:
    with pytest.raises(UsageError, match=text):
        pack(template(sql), {"a": value} if "(a)" in sql else (value,))


@pytest.mark.parametrize("sql", ["SELECT 1 IN%s", "SELECT t.x%s", "SELECT max%s"])
def test_a_word_that_ends_in_one_of_these_letters_is_a_word(sql: str) -> None:
    assert template(sql).introducers is None


# --- derived types -----------------------------------------------------------------------------------


class NotATime(datetime):
    """Like pandas.NaT: year 1 to ``datetime``, and not equal to itself."""

    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]


class Finer(datetime):
    """Like pandas.Timestamp with nanoseconds: equal to no datetime."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Finer)

    __hash__ = datetime.__hash__


class FinerSpan(timedelta):
    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]


class Masked(str):
    """A text that is not its characters."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]


class Missing(int):
    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("value", "base"),
    [
        (NotATime(1, 1, 1), "datetime"), (Finer(2024, 1, 1), "datetime"), (FinerSpan(1), "timedelta"),
        (Masked("secret"), "str"), (Missing(-1), "int"),
    ],
)  # fmt: skip
def test_a_value_of_a_derived_type_that_does_not_equal_what_would_be_stored_is_refused(
    value: Any, base: str
) -> None:
    """pandas#7100, trino-python-client#142: NaT was stored as year 1."""
    for params in ((value,), ([value],)):
        with pytest.raises(UsageError, match=f"^parameter 1 is a .* does not equal the {base} ") as caught:
            pack(template("%s"), params)
        assert "secret" not in str(caught.value)


class Incomparable(int):
    """Like an array: what it says to being equal is neither yes nor no."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("ambiguous")

    __hash__ = None  # type: ignore[assignment]


def test_a_value_of_a_derived_type_whose_own_comparison_fails_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"^parameter 1 is a Incomparable that cannot be compared") as caught:
        pack(template("%s"), (Incomparable(1),))
    assert isinstance(caught.value.__cause__.__cause__, ValueError)  # type: ignore[union-attr]


def test_pandas_types_are_stored_as_what_they_are_or_refused() -> None:
    pandas = pytest.importorskip("pandas")
    assert written("%s", (pandas.Timestamp(2024, 1, 1, 2),)) == "'2024-01-01 02:00:00'"
    assert written("%s", (pandas.Timedelta(hours=1),)) == "'01:00:00'"
    for value in (pandas.NaT, pandas.Timestamp(1), pandas.Timedelta(1), pandas.Timestamp(0, tz="UTC")):
        with pytest.raises(UsageError, match=r"^parameter 1"):
            pack(template("%s"), (value,))


class Odd(int):
    """Whose own rules of conversion lie."""

    def __int__(self) -> int:
        return 7

    __index__ = __int__


class OddBytes(bytes):
    def __bytes__(self) -> bytes:
        return b"other"


class OddFloat(float):
    def __float__(self) -> float:
        return 7.0


class OddDecimal(Decimal):
    def __format__(self, spec: str, *rest: Any) -> str:
        return "7"


class Flag(IntFlag):
    A = 1
    B = 2


class Named(str, Enum):  # noqa: UP042  (what people write)
    YES = "yes"


@pytest.mark.parametrize(
    ("value", "literal"),
    [
        (Odd(5), "5"), (OddBytes(b"x"), "_binary'x'"), (OddFloat(1.5), "1.5e0"), (OddDecimal("1.5"), "1.5"),
        (Flag.A | Flag.B, "3"), (Named.YES, "'yes'"),
    ],
)  # fmt: skip
def test_the_base_types_own_value_counts_whatever_a_derived_type_overrides(value: Any, literal: str) -> None:
    assert written("%s", (value,)) == literal


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (timedelta(hours=839), "beyond what TIME holds"),
        (-timedelta(hours=839), "beyond what TIME holds"),
        (Decimal("1E+70"), "outside the range of DECIMAL"),
    ],
)
def test_what_the_server_would_clip_in_silence_is_refused(value: Any, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        pack(template("%s"), (value,))
