"""The clients, as locust runs them; each request is written down before and after.

Users keep their connection or open one for each request; some hold WebSockets, some read
event streams, and of these some leave amid one. Nothing is ever sent twice: the client's own
retries are off, as they would hide what the proxy has lost.

Where the ledger is, the environment says: LOADTESTS_LEDGER.
"""

import itertools
import os
import random
import threading
import time
from collections.abc import Iterator
from typing import Any, Final

from geventhttpclient.client import HTTPClient, HTTPClientPool
from geventhttpclient.url import URL
from locust import FastHttpUser, constant_throughput, events, task
from locust.contrib.fasthttp import LocustBadStatusCode
from locust.env import Environment
from locust.exception import StopUser
from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.sync.client import connect

from loadtests.bodies import Digest, digest, event, page, reply
from loadtests.ledgers import ID_FIELD, UPSTREAM_FIELD, Got, Line, Sent, encode

TIMEOUT_S: Final = 30.0
EVENTS: Final = 8
MESSAGES: Final = 8
GAP_S: Final = 0.06

_ledger: Final = os.open(
    os.environ["LOADTESTS_LEDGER"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600
)
_numbers: Final = itertools.count(1)


_stopping: Final = threading.Event()


def _stop(**_: Any) -> None:
    _stopping.set()


events.test_stopping.add_listener(_stop)  # type: ignore[no-untyped-call]


def begin(sent: Sent) -> None:
    """Write down what is about to be sent.

    Raises StopUser when the test ends: a user that has just woken up is killed without regard
    for its task, and must not have begun one.
    """
    if _stopping.is_set():
        raise StopUser
    write(sent)


def write(line: Line) -> None:
    os.write(_ledger, encode(line))


class OncePool(HTTPClientPool):
    """Clients of one connection, that send nothing a second time."""

    def get_client(self, url: str | URL) -> HTTPClient:
        client = super().get_client(url)
        # It sends an idempotent request again, `size + 1` times, when the connection closes
        # without an answer. That would be a lost request that nobody notices.
        client._connection_pool.size = -1
        return client

    def forget(self) -> None:
        """Close what is open; the next request opens a connection of its own."""
        self.close()


class LoadUser(FastHttpUser):
    """What all have: ids, and the ledger."""

    abstract = True
    connection = "kept"

    def __init__(self, environment: Environment) -> None:
        self.client_pool = OncePool(
            concurrency=1, connection_timeout=TIMEOUT_S, network_timeout=TIMEOUT_S
        )
        super().__init__(environment)
        self.dice = random.Random(next(_numbers))

    def ask(
        self,
        method: str,
        *,
        size: int = 300,
        delay_s: float = 0.0,
        body: bytes = b"",
        chunked: bool = False,
        **fields: str,
    ) -> None:
        """One request for a page, and the whole answer."""
        id = f"r{next(_numbers)}"
        kind = f"{method} {self.connection}"
        begin(Sent(id, kind, time.monotonic(), digest(body)))
        content: bytes | Iterator[bytes] = pieces(body) if chunked else body
        with self.client.request(
            method,
            f"/page/{id}?size={size}&delay={delay_s:.3f}",
            name=kind,
            data=content,  # type: ignore[arg-type]
            headers={ID_FIELD: id, "Accept-Encoding": "identity", **fields},
            catch_response=True,
            allow_redirects=False,
        ) as answer:
            ended_s = time.monotonic()
            got = self._judged(id, ended_s, answer, b"" if method == "HEAD" else answer.content)
            write(got)
            if got.error or got.status != 200:
                answer.failure(got.error or f"status {got.status}")
            else:
                answer.success()

    def _judged(self, id: str, ended_s: float, answer: Any, content: bytes | None) -> Got:
        error = fault_of(answer)
        headers = answer.headers or {}
        whose = headers.get(ID_FIELD, id)
        if whose != id:
            error = f"the answer to {whose}"
        return Got(
            id,
            ended_s,
            answer.status_code,
            headers.get(UPSTREAM_FIELD, ""),
            digest(content or b""),
            error,
        )

    def report(self, kind: str, began_s: float, error: str) -> None:
        """Tell locust of what was not done by its own client."""
        self.environment.events.request.fire(
            request_type="", name=kind, response_time=(time.monotonic() - began_s) * 1000,
            response_length=0, exception=RuntimeError(error) if error else None, context={},
        )  # fmt: skip


def fault_of(answer: Any) -> str:
    """Why it is not a whole answer; a whole one is without fault, whatever its status is."""
    fault = answer.request_meta["exception"] or getattr(answer, "error", None)
    if fault is None or isinstance(fault, LocustBadStatusCode):
        return ""
    return f"{type(fault).__name__}: {fault}"


def pieces(body: bytes) -> Iterator[bytes]:
    """A body of a length that is not told: it is sent chunked."""
    for start in range(0, len(body), 5000):
        yield body[start : start + 5000]


class _Pages(LoadUser):
    """GET, HEAD, PUT, POST and DELETE, small and large, quick and slow."""

    abstract = True

    @task(10)
    def small(self) -> None:
        self.ask("GET")

    @task(3)
    def slow(self) -> None:
        # So that there is something in flight at each flip.
        self.ask("GET", delay_s=self.dice.uniform(0.02, 0.3))

    @task(1)
    def large(self) -> None:
        self.ask("GET", size=self.dice.randrange(20_000, 400_000))

    @task(6)
    def post(self) -> None:
        self.ask("POST", body=page("client", self.connection, self.dice.randrange(1, 2000)))

    @task(1)
    def slow_post(self) -> None:
        self.ask("POST", body=b"x" * 100, delay_s=self.dice.uniform(0.02, 0.3))

    @task(1)
    def upload(self) -> None:
        self.ask("POST", body=page("client", "upload", self.dice.randrange(50_000, 300_000)))

    @task(1)
    def chunked_upload(self) -> None:
        body = page("client", "chunked", self.dice.randrange(1, 60_000))
        self.ask("POST", body=body, chunked=True)

    @task(1)
    def put(self) -> None:
        self.ask("PUT", body=page("client", "put", 500))

    @task(1)
    def delete(self) -> None:
        self.ask("DELETE")

    @task(1)
    def head(self) -> None:
        self.ask("HEAD")


class KeptUser(_Pages):
    """Keeps its connection."""

    weight = 10
    wait_time = constant_throughput(60)


class FreshUser(_Pages):
    """Opens a connection for each request; every other time it says so."""

    weight = 4
    connection = "fresh"
    wait_time = constant_throughput(15)

    def ask(self, method: str, **more: Any) -> None:
        if self.dice.random() < 0.5:
            more["Connection"] = "close"
        super().ask(method, **more)
        assert isinstance(self.client_pool, OncePool)
        self.client_pool.forget()


class EventStreamUser(LoadUser):
    """Reads event streams: to the end, or leaves amid one that has none."""

    weight = 3
    wait_time = constant_throughput(3)

    @task(3)
    def read_all(self) -> None:
        self._read("events", EVENTS)

    @task(1)
    def leave(self) -> None:
        self._read("events left", 0)

    def _read(self, kind: str, count: int) -> None:
        id = f"e{next(_numbers)}"
        begin(Sent(id, kind, time.monotonic()))
        leave_after = self.dice.randrange(1, EVENTS)
        with self.client.request(
            "GET",
            f"/events/{id}?count={count}&gap={GAP_S}",
            name=kind,
            headers={ID_FIELD: id, "Accept-Encoding": "identity"},
            stream=True,
            catch_response=True,
        ) as answer:
            upstream = (answer.headers or {}).get(UPSTREAM_FIELD, "")
            received, error = b"", ""
            try:
                if answer.status_code == 200:
                    number = 0
                    while number < leave_after or count:
                        text = answer._response.readline(b"\n\n")
                        if not text:
                            break
                        received += text
                        if text != event(upstream, id, number):
                            error = f"event {number} is {text!r}"
                        number += 1
                else:
                    error = fault_of(answer)
                if not count:
                    answer._response.release()
            except Exception as fault:  # noqa: BLE001 - whatever it was, it has ended: say so
                error = f"{type(fault).__name__}: {fault}"
            ended_s = time.monotonic()
            write(
                Got(id, ended_s, answer.status_code, upstream, digest(received), error, not count)
            )
            if error or answer.status_code != 200:
                answer.failure(error or f"status {answer.status_code}")
            else:
                answer.success()


class WebSocketUser(LoadUser):
    """Holds a conversation; each message must come back from the server that has it."""

    weight = 3
    wait_time = constant_throughput(3)

    @task
    def talk(self) -> None:
        id = f"w{next(_numbers)}"
        messages = [
            page("client", f"{id} {n}", self.dice.randrange(1, 3000)) for n in range(MESSAGES)
        ]
        sent, received = Digest(), Digest()
        for message in messages:
            sent.update(message)
        began_s = time.monotonic()
        begin(Sent(id, "WebSocket", began_s, sent.hexdigest()))
        upstream, status, error = "", 0, ""
        try:
            with connect(
                f"{self.host}/echo/{id}".replace("http", "ws", 1),
                additional_headers={ID_FIELD: id},
                compression=None,
                proxy=None,
                open_timeout=TIMEOUT_S,
                close_timeout=TIMEOUT_S,
            ) as link:
                assert link.response is not None
                status = link.response.status_code
                upstream = link.response.headers.get(UPSTREAM_FIELD, "")
                for number, message in enumerate(messages):
                    link.send(message)
                    back = link.recv(timeout=TIMEOUT_S, decode=False)
                    received.update(back)
                    if back != reply(upstream, id, number, message):
                        error = f"message {number} was answered with {back[:40]!r}"
                    time.sleep(GAP_S)  # of this user alone, as locust has patched it
            if link.close_code != 1000:
                error = f"closed with {link.close_code} {link.close_reason}"
        except InvalidStatus as fault:
            status = fault.response.status_code
        except (OSError, WebSocketException) as fault:
            error = f"{type(fault).__name__}: {fault}"
        write(Got(id, time.monotonic(), status, upstream, received.hexdigest(), error))
        self.report("WebSocket", began_s, error)
