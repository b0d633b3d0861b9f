"""How the pages of the corpus are written: a family, and its cases one by one."""

from typing import Any, Final

from tests.conformance.case import Case, IdleCase, RequestCase, ResponseCase, Sent

GET: Final = b"GET /seen HTTP/1.1\r\n"
HOST: Final = b"Host: a\r\n"
POST: Final = b"POST /seen HTTP/1.1\r\nHost: a\r\n"
CHUNKED: Final = b"Transfer-Encoding: chunked\r\n"
HELLO: Final = b"5\r\nhello\r\n0\r\n\r\n"
INNER: Final = b"GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"
"""A request inside another's body."""


class Family:
    """One family of attacks, or one part of the standard, and its cases."""

    def __init__(self, name: str, source: str) -> None:
        """`source`: where the attack was published, or the section of the standard; a case may
        name another."""
        self.name = name
        self.source = source
        self.cases: list[Case] = []

    def refused(
        self, name: str, data: bytes, status: int = 400, *, behind: tuple[Sent, ...] = (),
        source: str = "",
    ) -> None:  # fmt: skip
        """Answered with `status`, closed; no server sees a byte of it. `behind` are the whole
        requests that come before it."""
        self._add(RequestCase(self.name, name, source or self.source, data, behind, status))

    def broken(self, name: str, data: bytes, status: int = 400, *, source: str = "") -> None:
        """Refused amid a body whose head has gone on: the server sees no end of it."""
        case = RequestCase(self.name, name, source or self.source, data, status=status, broken=True)
        self._add(case)

    def passed(
        self, name: str, data: bytes, *sent: Sent, closes: bool = False, source: str = ""
    ) -> None:
        """Passed on as these requests and in no other reading."""
        case = RequestCase(self.name, name, source or self.source, data, sent, closes=closes)
        self._add(case)

    def bad(
        self, name: str, says: bytes, then: str = "keep", *, source: str = "", **more: Any
    ) -> None:
        """An answer for which the client gets 502, and whose connection is not used again."""
        case = ResponseCase(
            self.name, name, source or self.source, says, then, status=502, unfit=True, **more
        )
        self._add(case)

    def answer(
        self, name: str, says: bytes, body: bytes = b"", then: str = "keep", *, source: str = "",
        **more: Any,
    ) -> None:  # fmt: skip
        """An answer that the client gets whole, and with this body."""
        case = ResponseCase(self.name, name, source or self.source, says, then, body=body, **more)
        self._add(case)

    def cut(
        self, name: str, says: bytes, body: bytes = b"", then: str = "close", *, source: str = "",
        **more: Any,
    ) -> None:  # fmt: skip
        """An answer that reaches the client as cut short, with no more than this body."""
        case = ResponseCase(
            self.name, name, source or self.source, says, then, body=body, cut=True, unfit=True,
            **more,
        )  # fmt: skip
        self._add(case)

    def idle(self, name: str, says: bytes, then: str = "keep", *, source: str = "") -> None:
        """Said on a connection that nobody uses, which is never used again."""
        self._add(IdleCase(self.name, name, source or self.source, says, then))

    def _add(self, case: Case) -> None:
        assert case.name not in [other.name for other in self.cases], f"twice: {case.name}"
        self.cases.append(case)
