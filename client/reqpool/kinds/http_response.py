"""What ``pool.http`` gives: an answer, read when it is looked at."""

from __future__ import annotations

import codecs
import json
from typing import Any

from reqpool_contract.errors import BadResponse, HttpError, RequestFacts
from reqpool_contract.masking import without_password

from .http_charset import charset
from .http_content import decoded
from .http_fields import HttpHeaders

END = b"\r\n\r\n"
NO_FACTS = RequestFacts("", 0, "", 0, 0.0)
"""Of an answer that no pool has got."""
_UTF_16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class HttpResponse:
    """An HTTP answer. Any status is one: see :meth:`raise_for_status`. May be looked at from any thread.

    Attributes:
        status: 200, 404, …
        url: what answered: after redirects the last one; without user and password.
        raw: the body as it came: its content codings not undone.
        history: the answers that led here by redirect, the first one first. A body that did not come
            together with its head is empty there: it is not waited for.
        facts: of the request; elapsed_s in it is the seconds to this answer, redirects included.
    """

    __slots__ = (
        "_content",
        "_head",
        "_headers",
        "_max_bytes",
        "facts",
        "history",
        "raw",
        "status",
        "url",
    )

    def __init__(
        self,
        head: bytes,
        body: bytes,
        url: str = "",
        history: tuple[HttpResponse, ...] = (),
        facts: RequestFacts = NO_FACTS,
        max_bytes: int = 16 << 20,
    ) -> None:
        """Wrap an answer.

        Args:
            head: status line and fields, without the empty line.
            body: without its framing.
            url: see above.
            history: see above.
            facts: see above.
            max_bytes: most that the body may be when decoded.

        Raises:
            BadResponse: if the head begins like no answer of HTTP/1.
        """
        number = head[9:12]
        if not number.isdigit() or not head.startswith(b"HTTP/1."):
            raise BadResponse(f"not an HTTP answer: {head[:40]!r}")
        self.status = int(number)
        self.url = url
        self.raw = body
        self.history = history
        self.facts = facts
        self._head = head
        self._max_bytes = max_bytes
        # Each is filled by one assignment: two threads that look at once do the work twice, no more.
        self._headers: HttpHeaders | None = None
        self._content: bytes | None = None

    @classmethod
    def of(
        cls, data: bytes, url: str, history: tuple[HttpResponse, ...], facts: RequestFacts, max_bytes: int
    ) -> HttpResponse:
        """Wrap what the worker half hands on: head, empty line, body.

        Raises:
            BadResponse: if that is not what it is.
        """
        end = data.find(END)
        if end < 0:
            raise BadResponse(f"not an HTTP answer: {data[:40]!r}")
        return cls(data[:end], data[end + len(END) :], url, history, facts, max_bytes)

    @property
    def elapsed_s(self) -> float:
        """Seconds from submission to this answer, redirects included."""
        return self.facts.elapsed_s

    @property
    def reason(self) -> str:
        """The words behind the status, as the server wrote them; often empty."""
        return self._head.partition(b"\r\n")[0][13:].decode("latin-1")

    @property
    def headers(self) -> HttpHeaders:
        """The header fields."""
        headers = self._headers
        if headers is None:
            headers = self._headers = HttpHeaders.of_head(self._head)
        return headers

    @property
    def content(self) -> bytes:
        """The body, its content codings undone.

        Raises:
            BadResponse: it is malformed, cut short, in a coding that is not known here, or longer than the
                request's ``max_bytes``.
        """
        content = self._content
        if content is None:
            content = self.raw
            if content and b"\r\ncontent-encoding:" in self._head.lower():
                try:
                    content = decoded(content, self.headers["content-encoding"], self._max_bytes)
                except BadResponse as error:
                    self.facts.told_by(error)
                    raise
            self._content = content
        return content

    @property
    def encoding(self) -> str:
        """The charset that the server named, or UTF-8, also where Python has no such charset."""
        return self._charset or "utf-8"

    @property
    def _charset(self) -> str | None:
        types = self.headers.get_all("content-type")
        return charset(types[-1]) if types else None

    @property
    def text(self) -> str:
        """The content as text, in :attr:`encoding`; what is malformed is replaced.

        A byte order mark overrides the server's word (WHATWG Encoding, "decode"), and is left out.

        Raises:
            BadResponse: see :attr:`content`.
        """
        content, encoding = self.content, self.encoding
        if content.startswith(codecs.BOM_UTF8):
            encoding = "utf-8"
        elif content.startswith(_UTF_16_MARKS) and not encoding.startswith("utf-32"):
            encoding = "utf-16"
        return content.decode(encoding, "replace").removeprefix("\ufeff")

    def json(self) -> Any:
        """Return the content read as JSON: UTF-8, UTF-16 or UTF-32, else the charset that the server named.

        RFC 8259 allows UTF-8 alone.

        Raises:
            BadResponse: if it is not JSON; and see :attr:`content`.
        """
        content = self.content
        try:
            try:
                return json.loads(content)
            except UnicodeDecodeError:
                named = self._charset
                if named is None:
                    raise
                return json.loads(content.decode(named))
        except (ValueError, RecursionError) as error:
            kind = _shown(self.headers.get("content-type", "no content type"))
            url = without_password(self.url)
            text = f"the answer from {url} ({self.status}, {kind}) is not JSON: {error}"
            raise self.facts.told_by(BadResponse(text)) from error

    @property
    def ok(self) -> bool:
        """Is the status under 400?"""
        return self.status < 400

    def raise_for_status(self) -> HttpResponse:
        """Return this answer, if its status is under 400.

        Raises:
            HttpError: else.
        """
        if self.status < 400:
            return self
        text = _shown(f"{self.status} {self.reason}".rstrip())
        text = f"{text}: {without_password(self.url)}"
        raise self.facts.told_by(HttpError(text, status=self.status, response=self))

    def __repr__(self) -> str:
        return f"<HttpResponse {self.status} {without_password(self.url)} {len(self.raw)} bytes>"

    def __reduce__(self) -> tuple[Any, ...]:
        about = (self._head, self.raw, self.url, self.history, self.facts, self._max_bytes)
        return HttpResponse, about


def _shown(text: str) -> str:
    """Return what a server wrote fit for an error's text: control characters are escaped."""
    return text if text.isprintable() else repr(text)[1:-1]
