"""The result of ``pool.http``: an answer, parsed when it is read."""

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
"""For an answer that did not come through a pool."""
_UTF_16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class HttpResponse:
    """An HTTP answer, of any status: see :meth:`raise_for_status`. May be used from any thread.

    Attributes:
        status: 200, 404, …
        url: the URL that answered, the last one after redirects; without user and password.
        raw: the body as received, with its content codings.
        history: the redirects that led here, in order. Their bodies may be empty: the pool does not wait for
            a body that did not come with its head.
        facts: the details of the request; ``elapsed_s`` is the seconds to this answer, redirects included.
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
        facts: RequestFacts | float = NO_FACTS,
        max_bytes: int = 16 << 20,
    ) -> None:
        """Wrap an answer.

        Args:
            head: status line and fields, without the empty line.
            body: without its framing.
            url, history: see the attributes.
            facts: see the attributes; only the seconds in pickles of 0.2.0.
            max_bytes: largest body when decoded.

        Raises:
            BadResponse: the head does not begin like an answer of HTTP/1.
        """
        number = head[9:12]
        if not number.isdigit() or not head.startswith(b"HTTP/1."):
            raise BadResponse(f"not an HTTP answer: {head[:40]!r}")
        self.status = int(number)
        self.url = url
        self.raw = body
        self.history = history
        self.facts = NO_FACTS._replace(elapsed_s=facts) if isinstance(facts, float) else facts
        self._head = head
        self._max_bytes = max_bytes
        # Each is set by one assignment: two threads that read at the same time do the work twice, no more.
        self._headers: HttpHeaders | None = None
        self._content: bytes | None = None

    @classmethod
    def of(
        cls, data: bytes, url: str, history: tuple[HttpResponse, ...], facts: RequestFacts, max_bytes: int
    ) -> HttpResponse:
        """Wrap an answer as the worker half passes it on: head, empty line, body.

        Raises:
            BadResponse: it is not that.
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
        """The words after the status, as the server wrote them; often empty."""
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
        """The body, decoded.

        Raises:
            BadResponse: it is malformed, cut short, in an unknown content coding, or longer than the
                request's ``max_bytes``.
        """
        content = self._content
        if content is None:
            content = self.raw
            if content and b"\r\ncontent-encoding:" in self._head.lower():
                try:
                    content = decoded(content, self.headers["content-encoding"], self._max_bytes)
                except BadResponse as error:
                    self.facts.fill_in(error)
                    raise
            self._content = content
        return content

    @property
    def encoding(self) -> str:
        """The charset that the server named; UTF-8 if it named none, or one that Python does not have."""
        return self._charset or "utf-8"

    @property
    def _charset(self) -> str | None:
        types = self.headers.get_all("content-type")
        return charset(types[-1]) if types else None

    @property
    def text(self) -> str:
        """The content as text, in :attr:`encoding`; malformed bytes are replaced.

        A byte order mark overrides the server's charset (WHATWG Encoding, "decode") and is removed.

        Raises:
            BadResponse: as :attr:`content`.
        """
        content, encoding = self.content, self.encoding
        if content.startswith(codecs.BOM_UTF8):
            encoding = "utf-8"
        elif content.startswith(_UTF_16_MARKS) and not encoding.startswith("utf-32"):
            encoding = "utf-16"
        return content.decode(encoding, "replace").removeprefix("\ufeff")

    def json(self) -> Any:
        """Parse the content as JSON in UTF-8, UTF-16 or UTF-32, otherwise in the charset the server named.

        RFC 8259 allows only UTF-8.

        Raises:
            BadResponse: it is not JSON, or as :attr:`content`.
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
            raise self.facts.fill_in(BadResponse(text)) from error

    @property
    def ok(self) -> bool:
        """Whether the status is under 400."""
        return self.status < 400

    def raise_for_status(self) -> HttpResponse:
        """Return this answer if its status is under 400.

        Raises:
            HttpError: it is 400 or more.
        """
        if self.status < 400:
            return self
        text = _shown(f"{self.status} {self.reason}".rstrip())
        text = f"{text}: {without_password(self.url)}"
        raise self.facts.fill_in(HttpError(text, status=self.status, response=self))

    def __repr__(self) -> str:
        return f"<HttpResponse {self.status} {without_password(self.url)} {len(self.raw)} bytes>"

    def __reduce__(self) -> tuple[Any, ...]:
        about = (self._head, self.raw, self.url, self.history, self.facts, self._max_bytes)
        return HttpResponse, about


def _shown(text: str) -> str:
    """Return a server's text for use in an error: control characters are escaped."""
    return text if text.isprintable() else repr(text)[1:-1]
