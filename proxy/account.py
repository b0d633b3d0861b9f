"""One exchange in the counters: accepted once, one outcome, named while it is in flight.

The words are this worker's region of the scoreboard. Their sums are what receipts and metrics
are made of, so everything that changes one of them for an exchange stands here.
"""

from bisect import bisect_left
from time import monotonic_ns
from typing import TYPE_CHECKING, Final

from turnout.proxy.head import NO_HEAD, RequestHead
from turnout.proxy.scoreboard import (
    CODE_INDEX,
    CUT_REASONS,
    LATENCY_BOUNDS_US,
    METHOD_INDEX,
    NO_UPSTREAM,
    NOT_RETRIED_REASONS,
    OTHER_METHOD,
    PATH_BYTES,
    RETRY_REASONS,
    S_ABORTED,
    S_ACCEPTED,
    S_CUT,
    S_NOT_RETRIED,
    S_PROXY,
    S_RETRIES,
    U_ABORTED,
    U_ANSWERED,
    U_ATTEMPTS_FAILED,
    U_CUT,
    U_LATENCY,
    U_LATENCY_SUM_US,
    U_PICKED,
    U_PROXY,
    U_UNHEALTHY_PICKS,
    WORD,
    ExchangeClass,
    pack_inflight,
    proxy_code_index,
    write_inflight,
)

if TYPE_CHECKING:
    from turnout.proxy.serving import ServiceState, UpstreamState
    from turnout.proxy.worker_core import Worker

NO_SLOT: Final = -1

_UPLOAD: Final = ExchangeClass.UPLOAD


class Account:
    """What of an exchange is counted. `service` None: no service matched."""

    __slots__ = ("inflight", "kind", "service", "started_us", "upstream", "worker")

    worker: "Worker"
    service: "ServiceState | None"
    upstream: "UpstreamState | None"
    kind: ExchangeClass
    started_us: int
    inflight: int
    """Index of its in-flight slot's first word, or NO_SLOT when all were taken."""

    def count_accepted(self, path: bytes) -> None:
        """The request's head has been received. Takes an in-flight slot, if one is left."""
        worker = self.worker
        words = worker.words
        free = worker.free_inflight
        if free:
            self.inflight = free.pop()
            write_inflight(worker.octets, self.inflight * WORD, 0, self.started_us, path)
            self.mark()
        else:
            self.inflight = NO_SLOT
        words[self._service_base() + S_ACCEPTED] += 1

    def count_picked(self, upstream: "UpstreamState") -> None:
        """From now on the exchange is this upstream's."""
        self.upstream = upstream
        self.worker.words[upstream.base + U_PICKED] += 1
        self.mark()

    @property
    def head(self) -> RequestHead:
        """The request's head."""
        return NO_HEAD

    def mark(self) -> None:
        """Say in the in-flight table what this exchange is now."""
        if self.inflight != NO_SLOT:
            service, upstream = self.service, self.upstream
            self.worker.words[self.inflight] = pack_inflight(
                service.slot if service is not None else 0,
                upstream.position if upstream is not None else NO_UPSTREAM,
                self.kind,
                METHOD_INDEX.get(self.head.method, OTHER_METHOD),
            )

    def become(self, kind: ExchangeClass) -> None:
        """The exchange turned out to be of another class (an event stream, a tunnel)."""
        self.kind = kind
        self.mark()

    # ------------------------------------------------------------ outcomes, one for each

    def count_answered(self, status: int, now_us: int) -> None:
        """Head and end of a server's answer were passed on, or a tunnel has closed."""
        upstream = self.upstream
        assert upstream is not None
        words = self.worker.words
        base = upstream.base
        if self.kind <= _UPLOAD:
            # Streams and tunnels last as long as they like: no latency.
            duration_us = now_us - self.started_us
            # Hot: `latency_bucket`, without a call.
            words[base + U_LATENCY + bisect_left(LATENCY_BOUNDS_US, duration_us)] += 1
            words[base + U_LATENCY_SUM_US] += duration_us
        words[base + U_ANSWERED + CODE_INDEX[status]] += 1

    def count_answered_by_proxy(self, status: int) -> None:
        index = proxy_code_index(status)
        self._count_outcome(U_PROXY + index, S_PROXY + index)

    def count_aborted(self) -> None:
        self._count_outcome(U_ABORTED, S_ABORTED)

    def count_cut(self, reason: str) -> None:
        index = CUT_REASONS.index(reason)
        self._count_outcome(U_CUT + index, S_CUT + index)

    def _count_outcome(self, of_upstream: int, of_service: int) -> None:
        upstream = self.upstream
        if upstream is not None:
            self.worker.words[upstream.base + of_upstream] += 1
        else:
            self.worker.words[self._service_base() + of_service] += 1

    def release(self) -> None:
        """The outcome has been counted: the slot is free."""
        if self.inflight != NO_SLOT:
            worker = self.worker
            worker.words[self.inflight] = 0
            worker.free_inflight.append(self.inflight)
            self.inflight = NO_SLOT

    # ------------------------------------------------------------ on the way

    def count_unhealthy_pick(self) -> None:
        assert self.upstream is not None
        self.worker.words[self.upstream.base + U_UNHEALTHY_PICKS] += 1

    def count_attempt_failed(self) -> None:
        assert self.upstream is not None
        self.worker.words[self.upstream.base + U_ATTEMPTS_FAILED] += 1

    def count_retry(self, reason: str) -> None:
        self.worker.words[self._service_base() + S_RETRIES + RETRY_REASONS.index(reason)] += 1

    def count_not_retried(self, reason: str) -> None:
        index = NOT_RETRIED_REASONS.index(reason)
        self.worker.words[self._service_base() + S_NOT_RETRIED + index] += 1

    def requests_total(self) -> int:
        """Requests of the service that this worker has accepted so far."""
        return self.worker.words[self._service_base() + S_ACCEPTED]

    def _service_base(self) -> int:
        service = self.service
        return service.base if service is not None else self.worker.serving.unmatched

    def as_cut(self, reason: str) -> dict[str, object]:
        """The entry of a receipt's `cut` list."""
        return {
            "method": self.head.method.decode("ascii", "replace"),
            "path": self.head.path[:PATH_BYTES].decode("utf-8", "replace"),
            "age_seconds": round((monotonic_ns() // 1000 - self.started_us) / 1e6, 3),
            "class": self.kind.name.lower(),
            "reason": reason,
        }
