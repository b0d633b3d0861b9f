"""What the executor answers when it will not do what it was asked: each with a stable type.

The API makes problem documents of them (RFC 9457); `type` and `status` never change for one
cause, and `details` are the document's further members.
"""

from typing import Any, ClassVar

from turnout.control.rows import StaleRevision


class Refusal(Exception):
    """A call that was refused; nothing has changed."""

    type: ClassVar[str]
    status: ClassVar[int]

    @property
    def details(self) -> dict[str, Any]:
        return {}


class UnknownService(Refusal):
    type = "unknown-service"
    status = 404


class UnknownUpstream(Refusal):
    type = "unknown-upstream"
    status = 404


class UnknownStrategy(Refusal):
    type = "unknown-strategy"
    status = 404


class UnknownSwitchover(Refusal):
    type = "unknown-switchover"
    status = 404


class BadWeights(Refusal):
    type = "bad-weights"
    status = 400


class BadServers(Refusal):
    type = "bad-servers"
    status = 400


class SwitchoverUnderWay(Refusal):
    type = "switchover-under-way"
    status = 409

    def __init__(self, service: str, id: str) -> None:
        super().__init__(
            f"switchover {id} of {service} is under way: wait for it, or abort it first"
        )
        self.id = id

    @property
    def details(self) -> dict[str, Any]:
        return {"switchover": self.id}


class IllegalVerb(Refusal):
    type = "illegal-verb"
    status = 409

    def __init__(self, message: str, id: str, state: str) -> None:
        super().__init__(message)
        self.id = id
        self.state = state

    @property
    def details(self) -> dict[str, Any]:
        return {"switchover": self.id, "state": self.state}


class NothingToRollBack(Refusal):
    type = "nothing-to-roll-back"
    status = 409


class RevisionIsStale(Refusal):
    type = "stale-revision"
    status = 412

    def __init__(self, message: str, expected: int, found: int) -> None:
        super().__init__(message)
        self.expected = expected
        self.found = found

    @property
    def details(self) -> dict[str, Any]:
        return {"expected": self.expected, "found": self.found}


class Unhealthy(Refusal):
    """Weight would rise on an upstream that is not healthy, and nobody forced it."""

    type = "upstream-unhealthy"
    status = 422

    def __init__(self, message: str, upstream: str) -> None:
        super().__init__(message)
        self.upstream = upstream

    @property
    def details(self) -> dict[str, Any]:
        return {"upstream": self.upstream}


class ServerNeeded(Refusal):
    """An upstream to which traffic goes would be left without a server."""

    type = "server-needed"
    status = 422


class ServersDiscovered(Refusal):
    """The upstream's servers are found out: what a person names would last until the next."""

    type = "servers-discovered"
    status = 422


def stale(error: StaleRevision) -> RevisionIsStale:
    """The store's refusal as the API's."""
    return RevisionIsStale(str(error), error.expected, error.found)


class TableRefused(Refusal):
    """The workers could not take a table with the change; what was before stays."""

    type = "table-refused"
    status = 422


class OuterUnusable(Refusal):
    """What is beyond the proxy cannot be moved, so nothing is."""

    type = "outer-unusable"
    status = 422
