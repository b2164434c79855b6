"""The result of a statement."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

from reqpool_contract.errors import BadResponse
from reqpool_contract.payloads.mysql import BINARY_ROWS

if TYPE_CHECKING:
    from .mysql_rows import MysqlColumn, ResultSet, Row


class MysqlResult:
    """The result of a statement: rows, or how many rows it changed. It is decoded on first access.

    So the first access raises BadResponse if the rows are malformed. May be used by any thread; can be
    pickled.

    Attributes:
        rows: a tuple for each row, with None for NULL; empty for a statement without any. Where a text is not
            UTF-8 (others' statements in SHOW PROCESSLIST may have bytes in them), each such byte is a lone
            surrogate in it: ``text.encode("utf-8", "surrogateescape")`` gives the bytes back.
        columns: the columns' names, in order.
        fields: the columns' definitions, as the server sends them.
        affected: rows that the statement inserted, changed or deleted; 0 if it only read.
        last_id: the AUTO_INCREMENT value that it made first, or set by LAST_INSERT_ID(x); 0 if none.
        warnings: the number of warnings; in a session, SHOW WARNINGS lists them.
        info: the server's remark, e.g. ``"Records: 3  Duplicates: 0  Warnings: 0"``.
        sets: this and every further result, in order: a CALL has one for each SELECT of its procedure and a
            last one, without columns, for itself.
    """

    __slots__ = ("_answer",)

    def __init__(self, data: bytes) -> None:
        """Keep an answer of the server.

        Args:
            data: its packets, as they came.
        """
        # The packets until the first access, then their contents. It is changed by one assignment: two
        # threads that access it at the same time do the work twice, nothing worse.
        self._answer: bytes | list[ResultSet] = data

    def _look(self) -> list[ResultSet]:
        answer = self._answer
        if not isinstance(answer, list):
            answer = self._answer = _reader()(answer)
        return answer

    @property
    def rows(self) -> list[Row]:
        answer = self._answer
        if not isinstance(answer, list):  # as _look, which each result would take
            answer = self._answer = _reader()(answer)
        return answer[0].rows

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple([column.name for column in self._look()[0].columns])

    @property
    def fields(self) -> tuple[MysqlColumn, ...]:
        return self._look()[0].columns

    @property
    def affected(self) -> int:
        return self._look()[0].affected

    @property
    def last_id(self) -> int:
        return self._look()[0].last_id

    @property
    def warnings(self) -> int:
        return self._look()[0].warnings

    @property
    def info(self) -> str:
        return self._look()[0].info

    @property
    def sets(self) -> tuple[MysqlResult, ...]:
        return (self, *map(_looked_at, self._look()[1:]))

    def dicts(self) -> list[dict[str, Any]]:
        """Return the rows as dicts; of columns with the same name, the last one counts."""
        names = self.columns
        return [dict(zip(names, row, strict=True)) for row in self.rows]

    # As 0.2.0 pickled it: processes of that version and of this one read each other's.

    def __getstate__(self) -> tuple[None, dict[str, Any]]:
        answer = self._answer
        if not isinstance(answer, list) and answer.startswith(BINARY_ROWS):
            with suppress(BadResponse):  # that is for its reader
                answer = self._look()  # 0.2.0 reads rows of the text protocol only
        if isinstance(answer, list):
            return None, {"_data": b"", "_set": answer[0], "_further": answer[1:]}
        return None, {"_data": answer, "_set": None, "_further": []}

    def __setstate__(self, state: tuple[None, dict[str, Any]]) -> None:
        data, first, further = (state[1][name] for name in ("_data", "_set", "_further"))
        self._answer = data if first is None else [first, *further]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __bool__(self) -> bool:
        return True  # an answer without rows is one, too

    def __repr__(self) -> str:
        found = self._look()[0]
        if found.columns:
            return f"<MysqlResult {len(found.rows)} rows of {', '.join(self.columns)}>"
        return f"<MysqlResult {found.affected} affected, last id {found.last_id}>"


@cache
def _reader() -> Callable[[bytes], list[ResultSet]]:
    from .mysql_rows import read  # needs PyMySQL, which an app without MySQL does not have

    return read


def _looked_at(found: ResultSet) -> MysqlResult:
    result = MysqlResult(b"")
    result._answer = [found]
    return result
