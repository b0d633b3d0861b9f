"""One server of an upstream, as this worker knows it: its kept connections and its troubles.

Idle connections are used last in, first out: the most recently used one is the least likely
to have been closed by the server at that very moment. One that has read an end of file or
unasked bytes has left the pool in the callback that read them, so it is never used again.
"""

import asyncio
import select
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, cast

from turnout.config.address import Address, AddressKind
from turnout.config.table import TablePool, TableServer
from turnout.proxy import replies
from turnout.proxy.commands import Passive
from turnout.proxy.descriptors import OURS
from turnout.proxy.scoreboard import C_CONNECTS_WITHOUT_DESCRIPTOR

if TYPE_CHECKING:
    from turnout.proxy.exchange import Exchange
    from turnout.proxy.upstream import UpstreamConnection
    from turnout.proxy.worker_core import Worker

KEEP_ALIVE_MARGIN_S: Final = 1.0
"""A server that announces `Keep-Alive: timeout=5` may count from before we saw its answer, so
its connection is given up this much earlier."""


class ServerPool:
    """A server's connections in this worker. Counts are of this worker alone."""

    __slots__ = (
        "_poll",
        "address",
        "answered",
        "avoid_after",
        "avoid_s",
        "avoid_until_s",
        "connect_errors",
        "connecting",
        "endpoint",
        "errors_5xx",
        "health_slot",
        "idle",
        "idle_max",
        "idle_s",
        "in_flight",
        "last_error",
        "open",
        "policy",
        "retired",
        "target",
        "troubled",
        "troubles",
        "waiting",
        "worker",
    )

    def __init__(self, worker: "Worker", server: TableServer, policy: TablePool) -> None:
        self.worker = worker
        self.endpoint = server.endpoint
        self.address = server.address
        self.target = Address.parse(server.endpoint)
        self.health_slot = server.health_slot
        self.use(policy)
        self.idle: list[UpstreamConnection] = []
        self.waiting: deque[Exchange] = deque()
        self.connecting: set[asyncio.Task[None]] = set()
        """As many connections are being opened; one that is made is counted by `open`."""
        self.open = 0
        self.in_flight = 0
        self.retired = False
        # Servers that this worker met too much trouble with it avoids by itself for a while:
        # the health words come later, and not at all while control is away.
        self.avoid_after = 0
        self.avoid_s = 0.0
        self.avoid_until_s = 0.0
        self._poll = select.poll()
        # What real traffic showed since the last report.
        self.answered = 0
        self.errors_5xx = 0
        self.connect_errors = 0
        self.troubles = 0
        self.troubled = False
        """The last answer was a 5xx, or the last attempt had none."""
        self.last_error = ""

    def use(self, policy: TablePool) -> None:
        """Keep connections by `policy` from now on."""
        self.policy = policy
        self.idle_max = policy.idle_max
        self.idle_s = policy.idle_timeout_s

    # ------------------------------------------------------------ connections

    def take_idle(self, now_s: float) -> "UpstreamConnection | None":
        """Return the most recently used idle connection that may still be used, or None.

        The socket is asked whether anything has come in meanwhile that the loop has not read
        yet: one system call. An end of file, as a rule: of the keep-alive race only the network's
        delay is left. Or something that nobody asked for, which would be taken for the answer.
        """
        while self.idle:
            connection = self.idle.pop()
            if connection.expires_s <= now_s or self.has_input(connection):
                connection.close()
            else:
                return connection
        return None

    def has_input(self, connection: "UpstreamConnection") -> bool:
        """Is there input at its socket that the loop has not read yet?"""
        descriptor = connection.descriptor
        self._poll.register(descriptor, select.POLLIN)
        try:
            return bool(self._poll.poll(0))
        finally:
            self._poll.unregister(descriptor)

    def give_back(self, connection: "UpstreamConnection") -> None:
        """Keep an open connection whose answer is complete, hand it on, or close it."""
        idle = self.idle
        if self.waiting:
            self._hand_on(connection)
        elif self.retired or len(idle) >= self.idle_max:
            connection.close()
        else:
            idle_s = self.idle_s
            announced = connection.keep_alive_s
            if announced is not None and announced - KEEP_ALIVE_MARGIN_S < idle_s:
                idle_s = announced - KEEP_ALIVE_MARGIN_S
            if idle_s <= 0:
                connection.close()
                return
            connection.expires_s = self.worker.now_s + idle_s
            idle.append(connection)

    def _hand_on(self, connection: "UpstreamConnection") -> None:
        """Give a connection whose answer is complete to the first that waits for one."""
        exchange = self.waiting[0]
        kept = not exchange.idempotent and self.kept_from(exchange)
        if not kept and not self.has_input(connection):
            self.waiting.popleft()
            exchange.connected(connection)
        else:
            connection.close()  # and `lost` opens another in its place

    def kept_from(self, exchange: "Exchange") -> bool:
        """Is a request that may not be sent twice to have a connection of its own?

        Not one that could be closing at this moment, if the operator wants it so: a client's
        first request cannot be told to be sent anew.
        """
        return self.policy.reuse_safe and not exchange.down.has_asked

    def lost(self, connection: "UpstreamConnection") -> None:
        """A connection has ended, for whatever reason."""
        self.open -= 1
        self.forget(connection)
        self._next()

    def _next(self) -> None:
        """Is there room for one that waits?"""
        if self.waiting and not self.full:
            self.connect(self.waiting.popleft())

    def forget(self, connection: "UpstreamConnection") -> None:
        """An idle connection is not to be used again."""
        if connection in self.idle:
            self.idle.remove(connection)

    @property
    def full(self) -> bool:
        limit = self.policy.connections_max
        return 0 < limit <= self.open + len(self.connecting)

    def connect(self, exchange: "Exchange") -> None:
        """Open a connection for `exchange`, or let it wait for one at the limit."""
        if self.full:
            self.waiting.append(exchange)
            return
        task = self.worker.loop.create_task(self._connect(exchange, exchange.attempt_number))
        self.connecting.add(task)
        task.add_done_callback(self._connect_ended)

    def _connect_ended(self, task: "asyncio.Task[None]") -> None:
        """The task is over, perhaps cancelled before it had begun: who waits has his turn."""
        self.connecting.discard(task)
        self._next()

    async def _connect(self, exchange: "Exchange", ticket: int) -> None:
        """Connect and tell the exchange, if its attempt is still `ticket`, as it was when this was
        asked for: a turn of the loop may have gone by. A task for each new connection, not each
        request."""
        from turnout.proxy.upstream import UpstreamConnection

        loop = self.worker.loop
        task = cast("asyncio.Task[None]", asyncio.current_task())
        timeout_s = self.worker.table.timeouts.connect_s
        connection = UpstreamConnection(self)
        factory = cast(Callable[[], asyncio.BaseProtocol], lambda: connection)
        try:
            async with asyncio.timeout(timeout_s or None):
                if self.target.kind is AddressKind.UNIX:
                    await loop.create_unix_connection(factory, self.target.path)
                else:
                    await loop.create_connection(factory, self.target.host, self.target.port)
        except asyncio.CancelledError:
            connection.given_up()
            raise
        except OSError as error:  # TimeoutError is one
            self.connecting.discard(task)
            connection.given_up()
            if error.errno in OURS:
                self._not_tried(exchange, ticket)
                return
            late = isinstance(error, TimeoutError)
            self.trouble("connect timed out" if late else f"connect: {error.strerror or error}")
            if exchange.waits_for(ticket):
                exchange.connect_failed("connect_timeout" if late else "connect_failed")
            return
        self.connecting.discard(task)  # `open` has it since it was made, and until it is lost
        if not exchange.waits_for(ticket):  # the client went away meanwhile
            if not connection.closing:
                self.give_back(connection)
        elif connection.closing:  # at once, so that nothing was written to it
            self.trouble("closed as soon as it was opened")
            exchange.connect_failed("connect_failed")
        else:
            exchange.connected(connection)

    def _not_tried(self, exchange: "Exchange", ticket: int) -> None:
        """There was no descriptor (memory, port) for a connection: no fault of the server's, and
        not to be tried again at once, there or elsewhere."""
        worker = self.worker
        worker.words[worker.region_base + C_CONNECTS_WITHOUT_DESCRIPTOR] += 1
        if exchange.waits_for(ticket):
            exchange.answer(replies.NO_DESCRIPTORS)

    def close_idle(self) -> None:
        """Close what nobody uses, and what is only being opened for somebody who has gone."""
        for connection in self.idle:
            connection.close()
        self.idle.clear()
        if not self.in_flight:
            for task in self.connecting:
                task.cancel()

    def reap(self, now_s: float) -> None:
        """Close what has been idle for too long. The oldest stand first."""
        idle = self.idle
        if idle and idle[0].expires_s <= now_s:
            kept = [connection for connection in idle if connection.expires_s > now_s]
            for connection in idle:
                if connection.expires_s <= now_s:
                    connection.close()
            self.idle = kept

    # ------------------------------------------------------------ what traffic shows

    def usable(self, health: int, now_s: float) -> bool:
        """May this server be chosen, by its health word and by what this worker met itself?"""
        return health != 2 and self.avoid_until_s <= now_s

    def answered_with(self, status: int) -> None:
        """Count an answer's head for the prober."""
        self.answered += 1
        if status >= 500 or self.troubled:
            self.note(status)

    def note(self, status: int) -> None:
        """Note an answer that is a 5xx, or that ends a row of troubles."""
        self.errors_5xx = self.errors_5xx + 1 if status >= 500 else 0
        self.troubles = 0
        self.troubled = self.errors_5xx > 0

    def trouble(self, error: str) -> None:
        """Count a failed attempt (refused, timed out, closed without an answer)."""
        self.connect_errors += 1
        self.troubles += 1
        self.troubled = True
        self.last_error = f"{self.endpoint}: {error}"
        if 0 < self.avoid_after <= self.troubles:
            self.avoid_until_s = self.worker.now_s + self.avoid_s

    def report(self) -> Passive | None:
        """Return what is new since the last report, and begin a new period."""
        if not self.answered and not self.connect_errors:
            return None
        passive = Passive(
            self.health_slot, self.answered, self.errors_5xx, self.connect_errors, self.last_error
        )
        self.answered = self.connect_errors = 0
        self.last_error = ""
        return passive
