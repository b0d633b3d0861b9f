"""The control API over HTTP: each call is one call of the executor, the store or the prober.

No decision is made here. What stands here is who may call, what a call has to look like, and
how an answer does. `routes` has all calls, `api_models` the bodies, `views` the answers,
`problems` the errors.
"""

import asyncio
import json
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from aiohttp import web

from turnout.config.model import Configuration, Service
from turnout.control import access, api_models, calls, event_stream, exposition, openapi, views
from turnout.control.access import Caller
from turnout.control.calls import Call, json_answer, page_answer, parsed_body, peer
from turnout.control.executor import Executor
from turnout.control.health import UpstreamHealth
from turnout.control.idempotency import Idempotency
from turnout.control.journal import Journal
from turnout.control.problems import Problem, of_http_error
from turnout.control.publisher import Reloaded
from turnout.control.refusals import Refusal, UnknownService
from turnout.control.refused_calls import AUDITED, NOBODY, RefusedCalls
from turnout.control.routes import BEFORE_MAX, ID, LIMIT_DEFAULT, LIMIT_MAX, NAME, ROUTES, Route
from turnout.control.shared import SharedState
from turnout.control.store import Author, Database, Key, ServiceRow, Store, StoreUnusable
from turnout.control.supervision import NO_SUPERVISOR
from turnout.control.switchover import Switchover
from turnout.control.tail_watch import TailWatch
from turnout.control.upgrades import Upgrades
from turnout.control.versions import version
from turnout.proxy.scoreboard import WorkerState

T = TypeVar("T")

log = logging.getLogger("turnout.control.api")

CALLER: Final = web.RequestKey("caller", Caller)


class Health(Protocol):
    """The prober, as far as it is asked here."""

    def upstream(self, service: str, upstream: str) -> UpstreamHealth: ...

    def servers(self, service: str, upstream: str) -> Sequence[views.ServerView]: ...


@dataclass(frozen=True, slots=True)
class ApiContext:
    """What the API asks."""

    executor: Executor
    store: Store
    prober: Health
    journal: Journal
    shared: SharedState
    configuration: Callable[[], Configuration]
    """The one in force."""
    reload: Callable[[Author], Awaitable[Reloaded]]
    in_force: Callable[[], Sequence[ServiceRow]]
    """Services as the workers act on them, for when the store cannot be read."""
    upgrades: Upgrades
    refused: RefusedCalls
    tails: TailWatch
    unready: Callable[[], Iterable[str]]
    """What else keeps control from doing its work, in words that everybody may read."""
    now: Callable[[], float]
    """Seconds since 1970 that do not jump: how long an answer has been kept."""
    tell: Callable[[str, str], None]
    """What is wrong in Turnout itself, and what to do: for the event log."""
    discovered: Callable[[str, str], Mapping[str, Any] | None] = lambda service, upstream: None
    """How the source of an upstream's servers is; None: it has none."""


def make_app(context: ApiContext, streams: event_stream.Streams | None = None) -> web.Application:
    """The API, ready to be run by an `aiohttp.web.AppRunner`."""
    api = Api(context, streams or event_stream.Streams())
    # Bodies are read by `_read`, under a limit that a reload may change.
    app = web.Application(middlewares=[api.guard], client_max_size=0)
    for route in ROUTES:
        methods = [route.method]
        if route.method == "GET" and route.operation != "events":
            methods.append("HEAD")
        for method in methods:
            handler = api.handler(route)
            app.router.add_route(method, route.path, handler, expect_handler=api.expect)
    app.on_shutdown.append(api.on_shutdown)
    return app


class Api:
    """The handlers. Their names are the operations of `routes`."""

    def __init__(self, context: ApiContext, streams: event_stream.Streams) -> None:
        self._context = context
        self._streams = streams
        self._idempotency = Idempotency(context.store, context.now)
        self._stopping = asyncio.Event()
        self._writes: dict[object, str] = {}
        """Handler -> the operation, of calls that change something."""
        self._version = version()
        self._ended: Mapping[tuple[str, str], int] | None = None

    async def on_shutdown(self, app: web.Application) -> None:
        """Let go of everybody who waits: the switchovers go on."""
        self._stopping.set()
        self._streams.close()

    # ------------------------------------------------------------ around every call

    @web.middleware
    async def guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Every answer that is not a good one is a problem document."""
        try:
            response = await self._guarded(request, handler)
        except Problem as problem:
            response = self._refused(request, problem)
        except web.HTTPException as error:
            found = of_http_error(error, request.method, request.path)
            response = self._refused(request, found)
        except Refusal as refusal:
            response = self._refused(request, Problem.of(refusal))
        except StoreUnusable as error:
            unusable = Problem("store-unusable", str(error), headers={"Retry-After": "5"})
            response = self._refused(request, unusable)
        except Exception as error:  # noqa: BLE001  # said with an id: the caller gets no trace
            response = self._mistake(request, error)
        return _dressed(response)

    async def expect(self, request: web.Request) -> web.StreamResponse | None:
        """Say 100 to who waits for it: aiohttp asks here before anything else."""
        if request.headers["Expect"].lower() != "100-continue":
            problem = Problem("expectation-failed", "only Expect: 100-continue is met")
            return _dressed(self._refused(request, problem))
        if request.version >= (1, 1):
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0  # the answer has not begun by this
        return None

    async def _guarded(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        control = self._context.configuration().control
        calls.check_head(request)
        access.check_site(control, request.headers, request.method, request.path)
        if request.path not in _OPEN:
            caller = access.authenticate(control.tokens, request.headers.get("Authorization", ""))
            request[CALLER] = caller
        return await handler(request)

    def _refused(self, request: web.Request, problem: Problem) -> web.Response:
        """Count it, and note for the audit what would have changed something. A browser without
        a token gets the page that asks for it, with the same status."""
        self._context.refused.count(problem.name)
        self._note_refused(request, problem)
        wants_page = "text/html" in request.headers.get("Accept", "")
        if problem.status == 401 and request.path == "/" and wants_page:
            response = page_answer(401)
            response.headers.update(problem.headers)
            return response
        return problem.response()

    def _note_refused(self, request: web.Request, problem: Problem) -> None:
        operation = self._writes.get(request.match_info.handler)
        # A configuration that is refused is noted by whoever read it.
        if (
            operation is None
            or problem.status not in AUDITED
            or problem.name == "configuration-refused"
        ):
            return
        caller = request.get(CALLER)
        author = Author(caller.name if caller is not None else NOBODY, peer(request))
        self._context.refused.note(
            author, operation, request.match_info.get("service", ""), problem.name, problem.detail
        )

    def _mistake(self, request: web.Request, error: Exception) -> web.Response:
        id = secrets.token_hex(6)
        self._context.refused.count("internal-error")
        log.error("api.mistake id=%s %s %r", id, request.method, request.path, exc_info=error)
        self._context.tell(
            f"{request.method} {request.path} failed with {type(error).__name__} (id {id})",
            "report it with what stderr says of this id",
        )
        return Problem("internal-error", f"it is in the log under {id}", more={"id": id}).response()

    def handler(self, route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """What aiohttp calls for a route."""
        operation: Callable[[Call], Awaitable[web.StreamResponse]] = getattr(self, route.operation)
        nobody = Caller("", route.scope)

        async def read(request: web.Request) -> web.StreamResponse:
            caller = request.get(CALLER, nobody)
            access.authorize(caller, route.scope)
            return await operation(Call(request, caller))

        async def write(request: web.Request) -> web.StreamResponse:
            caller = request[CALLER]
            access.authorize(caller, route.scope)
            # Before anything is done: who is refused has changed nothing.
            wait = bool(route.query) and Call(request, caller).flag("wait")
            content = await self._read(request)

            async def work(key: Key | None = None) -> web.Response:
                body = None if route.body is None else parsed_body(route, content)
                try:
                    answer = await operation(Call(request, caller, body, key))
                except Refusal as refusal:
                    raise Problem.of(refusal) from None
                assert isinstance(answer, web.Response)
                return answer

            key = request.headers.get("Idempotency-Key")
            if key is None:
                response = await work()
            else:
                call = b"\0".join((request.method.encode(), request.path.encode(), content))
                kept_s = self._context.configuration().control.idempotency_s
                response = await self._idempotency.once(
                    caller.name,
                    key,
                    call,
                    kept_s,
                    work,
                    lambda id: self._recalled(Call(request, caller), id),
                )
            return await self._settled(route, Call(request, caller), response, wait)

        if route.method == "GET":
            return read
        self._writes[write] = route.operation
        return write

    async def _read(self, request: web.Request) -> bytes:
        """The body's bytes. Raises Problem: 408, 413, or 400 for one that is coded or not whole."""
        coding = request.headers.get("Content-Encoding", "identity")
        if coding.lower() != "identity":
            # Nobody needs it, and a few octets could unpack to a great many.
            raise Problem("malformed-header", f"Content-Encoding is {coding!r}; send the bare JSON")
        control = self._context.configuration().control
        limit, limit_s = control.body_bytes, control.timeout_s
        content = bytearray()
        try:
            async with asyncio.timeout(limit_s):
                async for part in request.content.iter_any():
                    content += part
                    if len(content) > limit:
                        raise Problem(
                            "body-too-large", f"a body has {limit} bytes at most (control.body)"
                        )
        except TimeoutError:
            raise Problem(
                "body-too-slow",
                f"{len(content)} bytes came in {limit_s:g} s, and no end (control.timeout)",
                headers={"Connection": "close"},
            ) from None
        except (web.RequestPayloadError, ConnectionError) as error:
            raise Problem("malformed-body", "the body is not whole") from error
        return bytes(content)

    async def _settled(
        self, route: Route, call: Call, response: web.Response, wait: bool
    ) -> web.Response:
        """Wait as long as the call is to be held: what came so far is kept for its key."""
        by_hand = route.operation == "weights"
        if response.status not in (200, 202) or not (wait or (by_hand and response.status == 202)):
            return response
        assert isinstance(response.body, bytes)
        id = json.loads(response.body).get("id")
        if id is None:
            return response
        executor = self._context.executor
        reached = executor.wait(id) if wait else executor.wait_acknowledged(id)
        value = await self._until(reached, id)
        if not by_hand:
            return await self._switchover(value)
        if value.final and value.state != "completed":
            raise Problem(
                "weights-not-reached",
                value.outcome or f"switchover {id} is {value.state}",
                more={"switchover": id, "state": value.state.value},
            )
        return await self._service_now(value.service)

    async def _recalled(self, call: Call, id: str) -> web.Response:
        """The answer to a call whose decision is stored and whose answer was lost: what has
        become of its switchover `id`, or else of its service."""
        if not id:
            return await self._service_now(call.path("service"))
        value = await self._context.executor.get(id)
        if "id" in call.request.match_info:
            return await self._switchover(value)
        return await self._started(value, dry_run=False)

    async def _until(self, reached: Awaitable[T], id: str) -> T:
        """Wait, but not beyond the end of control. Raises Problem(503)."""
        waiting = asyncio.ensure_future(reached)
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                return waiting.result()
        finally:
            waiting.cancel()
            stopping.cancel()
        raise Problem(
            "stopping",
            f"control is stopping; switchover {id} goes on: turnout wait {id}",
            more={"switchover": id},
            headers={"Retry-After": "1"},
        )

    # ------------------------------------------------------------ services

    async def services(self, call: Call) -> web.Response:
        names = [service.name for service in self._context.configuration().services]
        return json_answer({"items": [await self._service_document(name) for name in names]})

    async def service(self, call: Call) -> web.Response:
        return await self._service_now(call.path("service"))

    async def weights(self, call: Call) -> web.Response:
        asked = call.asked(api_models.WeightsBody)
        name = call.path("service")
        value = await self._context.executor.set_weights(
            name,
            asked.weights,
            call.author,
            force=asked.force,
            dry_run=asked.dry_run,
            revision=call.revision,
        )
        if not value.id and not asked.dry_run:
            return await self._service_now(name)
        return await self._started(value, asked.dry_run)

    async def switch(self, call: Call) -> web.Response:
        asked = call.asked(api_models.SwitchBody)
        value = await self._context.executor.start(
            call.path("service"),
            asked.to,
            call.author,
            strategy=asked.strategy,
            wait_healthy_s=asked.wait_healthy,
            force=asked.force,
            dry_run=asked.dry_run,
            revision=call.revision,
        )
        return await self._started(value, asked.dry_run)

    async def rollback(self, call: Call) -> web.Response:
        asked = call.asked(api_models.RollbackBody)
        value = await self._context.executor.rollback(
            call.path("service"), call.author, force=asked.force, revision=call.revision
        )
        return await self._started(value, dry_run=False)

    async def hold(self, call: Call) -> web.Response:
        row = await self._context.executor.hold(
            call.path("service"), call.author, revision=call.revision
        )
        return await self._service_now(row.name)

    async def release(self, call: Call) -> web.Response:
        row = await self._context.executor.release(
            call.path("service"), call.author, revision=call.revision
        )
        return await self._service_now(row.name)

    async def servers(self, call: Call) -> web.Response:
        asked = call.asked(api_models.ServersBody)
        row = await self._context.executor.set_servers(
            call.path("service"),
            call.path("upstream"),
            asked.servers,
            call.author,
            revision=call.revision,
        )
        return await self._service_now(row.name)

    async def _service_now(self, name: str) -> web.Response:
        document = await self._service_document(name)
        return json_answer(document, revision=document["revision"])

    async def _service_document(self, name: str) -> dict[str, Any]:
        found = await self._context.executor.service(name)
        configured = self._configured(name)
        if configured is None:
            raise UnknownService(f"service {name} has just left the configuration")
        prober, row = self._context.prober, found.row
        upstreams = [
            (prober.upstream(name, upstream), in_flight, prober.servers(name, upstream))
            for upstream, in_flight in zip((row.first, row.second), found.in_flight, strict=True)
        ]
        last = None
        if configured.outer is not None and not self._context.store.problem:
            last = await self._context.store(Database.outer_last, name)
        discovered = {
            name: self._context.discovered(row.name, name) for name in (row.first, row.second)
        }
        return views.service(configured, row, found.switchover, upstreams, last, discovered)

    def _configured(self, name: str) -> Service | None:
        return self._context.configuration().service(name)

    async def tail(self, call: Call) -> web.Response:
        name = call.path("service")
        moving = (await self._context.executor.service(name)).switchover
        under_way = (moving.id, moving.from_upstream) if moving is not None else ()
        document = self._context.tails.document(name, *under_way)
        if document is None:
            raise Problem(
                "no-tail",
                f"services.{name}.outer.tail is off, or there is no outer. Write it, with the "
                "listeners that each upstream's address leads to",
            )
        return json_answer(document)

    # ------------------------------------------------------------ switchovers

    async def history(self, call: Call) -> web.Response:
        name = call.path("service")
        await self._context.executor.service(name)
        values = await self._context.store(
            Database.switchovers,
            name,
            call.number("limit", LIMIT_DEFAULT, LIMIT_MAX),
            call.word("before", ID),
        )
        configured = self._configured(name)
        return json_answer({"items": [views.switchover(value, configured) for value in values]})

    async def switchover(self, call: Call) -> web.Response:
        return await self._switchover(await self._context.executor.get(call.path("id")))

    async def pause(self, call: Call) -> web.Response:
        return await self._steer(call, self._context.executor.pause)

    async def resume(self, call: Call) -> web.Response:
        return await self._steer(call, self._context.executor.resume)

    async def approve(self, call: Call) -> web.Response:
        return await self._steer(call, self._context.executor.approve)

    async def abort(self, call: Call) -> web.Response:
        return await self._steer(call, self._context.executor.abort)

    async def _steer(self, call: Call, verb: Callable[..., Awaitable[Switchover]]) -> web.Response:
        value = await verb(call.path("id"), call.author, revision=call.revision)
        return await self._switchover(value)

    async def _started(self, value: Switchover, dry_run: bool) -> web.Response:
        under_way = bool(value.id)
        document = views.switchover(
            value,
            self._configured(value.service),
            changed=under_way or (dry_run and not value.final),
            dry_run=dry_run,
        )
        if not under_way:
            if dry_run:
                document["outer"] = await self._context.executor.preview(value)
            return json_answer(document)
        headers = {"Location": f"/v1/switchovers/{value.id}"}
        return json_answer(document, status=202, headers=headers, revision=value.revision)

    async def _switchover(self, value: Switchover) -> web.Response:
        document = views.switchover(value, self._configured(value.service))
        document["outer"] = await self._context.executor.beyond(value)
        document["doing"] = self._context.executor.doing(value)
        document["receipt"] = (
            await self._context.store(Database.receipt, value.id) if value.final else None
        )
        return json_answer(document, revision=value.revision)

    # ------------------------------------------------------------ everything

    async def events(self, call: Call) -> web.StreamResponse:
        newest = await self._context.store(Database.last_event)
        limit = self._context.configuration().control.event_streams
        return await event_stream.serve(
            call.request, self._context.journal, self._streams, limit, newest
        )

    async def audit(self, call: Call) -> web.Response:
        entries = await self._context.store(
            Database.audit,
            call.number("limit", LIMIT_DEFAULT, LIMIT_MAX),
            call.number("before", 0, BEFORE_MAX),
            call.word("service", NAME),
        )
        return json_answer({"items": [views.audit_entry(entry) for entry in entries]})

    async def reload(self, call: Call) -> web.Response:
        done = await self._context.reload(call.author)
        if done.error == NO_SUPERVISOR:
            raise Problem("no-supervisor", done.error)
        if done.error:
            raise Problem("configuration-refused", done.error)
        return json_answer(
            {
                "changed": done.changed,
                "table": done.table,
                "workers": done.workers,
                "needs_restart": list(done.needs_restart),
                "unresolved": [
                    {"service": lost.service, "upstream": lost.upstream, "address": lost.address}
                    for lost in done.unresolved
                ],
            }
        )

    async def upgrade(self, call: Call) -> web.Response:
        return json_answer(await self._context.upgrades.begin(call.author), status=202)

    async def upgrade_state(self, call: Call) -> web.Response:
        return json_answer(await self._context.upgrades.shown())

    async def metrics(self, call: Call) -> web.Response:
        context = self._context
        try:
            rows: Sequence[ServiceRow] = await context.store(Database.services)
            self._ended = await context.store(Database.ended)
        except StoreUnusable:
            # What workers count is in memory, and whoever looks at it needs it most just now.
            rows = context.in_force()
        facts = exposition.Facts(
            version=self._version,
            services=tuple(rows),
            healthy={
                (service.name, name): context.prober.upstream(service.name, name).healthy
                for service in context.configuration().services
                for name in service.names
            },
            ended=self._ended,
            event_streams=self._streams.open,
            slow_readers=self._streams.slow,
            refused=dict(context.refused.counts),
            discovered={
                (service.name, name): (bool(shown["problem"]), shown["seconds_ago"])
                for service in context.configuration().services
                for name in service.names
                if (shown := context.discovered(service.name, name)) is not None
            },
            entries=context.tails.counted(),
        )
        accept = call.request.headers.get("Accept", "")
        text, kind = await asyncio.to_thread(exposition.render, context.shared, facts, accept)
        return web.Response(body=text, headers={"Content-Type": kind})

    async def healthz(self, call: Call) -> web.Response:
        return json_answer({"status": "alive"})

    async def readyz(self, call: Call) -> web.Response:
        boards = self._context.shared.boards
        reasons = list(self._context.unready())
        if not any(boards.state(region) is WorkerState.SERVING for region in boards.live_regions()):
            reasons.append("no worker serves")
        try:
            await self._context.store(Database.check)
        except StoreUnusable as error:
            reasons.append(str(error))
        document = {"status": "not ready" if reasons else "ready", "reasons": reasons}
        return json_answer(document, status=503 if reasons else 200)

    async def openapi(self, call: Call) -> web.Response:
        return json_answer(openapi.document(self._version))

    async def page(self, call: Call) -> web.Response:
        return page_answer(200)


def _dressed(response: web.StreamResponse) -> web.StreamResponse:
    """With the fields that every answer has."""
    if not response.prepared:
        response.headers.setdefault("Cache-Control", "no-store")
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Server"] = "turnout"
    return response


_OPEN: Final = frozenset(route.path for route in ROUTES if route.open)
