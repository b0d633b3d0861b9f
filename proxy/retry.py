"""Pure: an attempt has failed; is the request sent again, and where, or is it answered?

The rule above all others: a request that is not idempotent is never sent twice. So it is
sent again only if nothing of it can have reached a server. What may be sent again is, within
a number of attempts and a budget: retries of everybody at once are what turns a slow server
into a dead one.
"""

from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import Final

from turnout.proxy.scoreboard import NOT_RETRIED_REASONS, RETRY_REASONS

MARK_S: Final = 1.0
"""How finely a budget's window is counted."""


class Failure(Enum):
    """How an attempt ended without a byte of response."""

    CONNECT_FAILED = "connect_failed"
    CONNECT_TIMEOUT = "connect_timeout"
    REUSED_CLOSED = "reused_connection_closed"
    CLOSED_BEFORE_ANSWER = "closed_before_answer"
    """On a fresh connection: the server took the request, so it is to blame, not the pool."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What is known when an attempt has failed."""

    failure: Failure
    idempotent: bool
    """The method is (RFC 9110, section 9.2.2)."""
    replayable: bool
    """All of the body that has been read so far is still held."""
    other_servers: int
    """Servers of the same upstream that this request has not been sent to."""
    retries: int
    """How often the request has been sent anew already."""
    written: bool = True
    """Any byte of the request was given to the failed connection."""
    response_started: bool = False
    client_gone: bool = False


@dataclass(frozen=True, slots=True)
class Retry:
    """Send it again: `reason` is one of RETRY_REASONS; `elsewhere`: to another server, else
    to the same one on a fresh connection."""

    reason: str
    elsewhere: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer the client; `reason`, one of NOT_RETRIED_REASONS, says why it is not sent again."""

    reason: str


class Budget:
    """Bounds retries to a share of a service's requests, in one worker.

    In every window at most `fraction` of the requests accepted in it, or `floor` if that is
    more, so that a quiet service has failover too. The shape is Finagle's RetryBudget
    (deposits that expire after 10 s, and a reserve of 10 a second); but nothing is done for a
    request that is not retried: how many there were is read from the counter that is kept
    anyway.
    """

    __slots__ = ("_marks", "floor", "fraction", "window_s")

    def __init__(self, fraction: float, *, window_s: float = 10.0, floor: int = 100) -> None:
        """`fraction` 0..1; 0 allows no retry at all."""
        self.fraction = fraction
        self.window_s = window_s
        self.floor = floor
        self._marks: deque[_Mark] = deque()

    def spend(self, now_s: float, requests_total: int) -> bool:
        """Take one retry from the budget; False if there is none left.

        `requests_total` is the service's rising counter of accepted requests.
        """
        if self.fraction <= 0:
            return False
        marks = self._marks
        # The newest mark at or before the window's beginning is what the window is counted from.
        while len(marks) > 1 and marks[1].at_s <= now_s - self.window_s:
            marks.popleft()
        if not marks or now_s - marks[-1].at_s >= MARK_S:
            marks.append(_Mark(now_s, requests_total))
        first = marks[0]
        span_s = now_s - first.at_s
        requests = float(requests_total - first.requests_total)
        spent = sum(mark.retries for mark in marks)
        if span_s > self.window_s:
            requests *= self.window_s / span_s
            spent -= first.retries
        if spent + 1 > max(self.floor, self.fraction * requests):
            return False
        marks[-1].retries += 1
        return True


@dataclass(slots=True)
class _Mark:
    """A second in which a retry was asked for."""

    at_s: float
    requests_total: int
    retries: int = 0


def decide(
    attempt: Attempt, *, attempts_max: int, budget: Budget, now_s: float, requests_total: int
) -> Retry | Answer:
    """Say what becomes of a request whose attempt failed; spends the budget if it is a retry.

    `attempts_max` is how often a request may be sent anew, 0 for never. Source of the rules:
    RFC 9110, section 9.2.2, and RFC 9112, section 9.3.1.
    """
    refusal = _refusal(attempt, attempts_max)
    if refusal is not None:
        return Answer(refusal)
    if not budget.spend(now_s, requests_total):
        return Answer("budget_exhausted" if budget.fraction > 0 else "retries_off")
    elsewhere = attempt.failure is not Failure.REUSED_CLOSED
    return Retry(attempt.failure.value, elsewhere)


def _refusal(attempt: Attempt, attempts_max: int) -> str | None:
    if attempt.client_gone:
        return "client_gone"
    if attempt.response_started:
        return "response_started"
    connecting = attempt.failure in (Failure.CONNECT_FAILED, Failure.CONNECT_TIMEOUT)
    if not connecting and attempt.written:
        if not attempt.idempotent:
            return "method_not_idempotent"
        if not attempt.replayable:
            return "body_not_replayable"
    if attempts_max <= 0:
        return "retries_off"
    if attempt.retries >= attempts_max:
        return "attempts_exhausted"
    if attempt.failure is Failure.CLOSED_BEFORE_ANSWER:
        # It was on a fresh connection. A request that kills its server must not go round.
        return "attempts_exhausted"
    if connecting and attempt.other_servers <= 0:
        return "no_other_server"
    return None


assert {failure.value for failure in Failure if failure is not Failure.CLOSED_BEFORE_ANSWER} <= set(
    RETRY_REASONS
)
assert "attempts_exhausted" in NOT_RETRIED_REASONS
