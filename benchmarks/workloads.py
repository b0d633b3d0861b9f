"""Pure: what is measured, as data: the workloads, who takes part in each, and the bars."""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from benchmarks.ratios import Bar, Measure, Separate


class Drive(StrEnum):
    """What loads the proxy, and what is measured meanwhile."""

    SATURATE = "saturate"
    """wrk, as much as goes."""
    FIXED_RATE = "fixed rate"
    """h2load at half of what the slowest of nginx, HAProxy and Turnout reached."""
    WEBSOCKET = "websocket"
    EVENT_STREAMS = "event streams"
    IDLE = "idle"
    SLOW_READERS = "slow readers"
    START = "start"
    SWITCH_LATENCY = "switch latency"


class Origin(StrEnum):
    """What answers behind the proxies."""

    NGINX = "nginx"
    """Plain answers and files."""
    APP = "app"
    """Chunked answers, event streams, WebSocket; reads a body to its end before it answers."""


class Variant(StrEnum):
    """A contestant that is not the proxy as it comes."""

    PLAIN = ""
    SPLICE = "splice"
    """HAProxy with `option splice-response`."""
    FIELDS = "fields"
    """HAProxy that tells the origin and the client what Turnout tells them of itself."""
    LOG = "log"
    """Turnout with its JSON access log."""
    WEIGHTS = "90/10"
    SERVICES = "1000 services"
    """By host and path, each with servers of its own; HAProxy with as many backends."""
    ONE_WORKER = "1 worker"
    """On the cores that two workers have."""
    TWO_WORKERS = "2 workers"
    SWITCHING = "switching"
    """Turnout while it is switched every 100 ms."""
    SWITCHING_APART = "switching, control apart"
    """The same with the control process on the load's cores."""


@dataclass(frozen=True, slots=True)
class Contestant:
    peer: str
    variant: Variant = Variant.PLAIN

    @property
    def name(self) -> str:
        return f"{self.peer} {self.variant}".strip()


class Heads(StrEnum):
    FEW = "few"
    BROWSER = "browser"
    """20 fields each way, as a browser and a careful application send them."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the load asks for. Path, query, cookie and an id differ from request to request."""

    path: str = "/a/"
    varies: bool = True
    """Whether something is appended to the path."""
    heads: Heads = Heads.FEW
    method: str = "GET"
    body_bytes: int = 0
    answer_bytes: int = 100
    close: bool = False
    """A fresh connection for each request."""
    hosts: int = 0
    """So many Host names in turn; 0: none given."""


class Scope(StrEnum):
    FULL = "full"
    QUICK = "quick"
    """While working: Turnout and HAProxy."""
    SMOKE = "smoke"
    """Whether every part of the harness works."""


@dataclass(frozen=True, slots=True)
class Workload:
    name: str
    says: str
    contestants: tuple[Contestant, ...]
    drive: Drive = Drive.SATURATE
    request: Request = Request()
    connections: int = 64
    origin: Origin = Origin.NGINX
    compared: Measure = Measure.CPU_US
    """The measure whose ratios are formed."""
    base: str = "haproxy"
    """Whom ratios are against."""
    rounds_least: int = 1
    """Rounds that it takes, whatever was asked for."""
    rounds_most: int = 99
    scopes: frozenset[Scope] = frozenset()
    """Of which it is a part, beside the full one."""
    fresh: bool = False
    """Each turn has a proxy of its own, which the drive starts."""
    two_workers: bool = False
    """Cores for two workers; all cores, when there are none for the second one."""
    switches: int = 0
    """So many of which the latency is taken."""


TURNOUT: Final = Contestant("turnout")
HAPROXY: Final = Contestant("haproxy")
SPLICE: Final = Contestant("haproxy", Variant.SPLICE)
FIELDS: Final = Contestant("haproxy", Variant.FIELDS)
NGINX: Final = Contestant("nginx")
MANY: Final = tuple(map(Contestant, ("envoy", "traefik", "caddy", "aiohttp")))
FEW: Final = (HAPROXY, TURNOUT, NGINX)
ALL: Final = (*FEW, *MANY)
HEADS: Final = (HAPROXY, TURNOUT, FIELDS, NGINX, *MANY)
LARGE: Final = (HAPROXY, TURNOUT, SPLICE, NGINX)
LARGE_ALL: Final = (*LARGE, *MANY)

QUICK: Final = frozenset({Scope.QUICK})
SMOKE: Final = frozenset({Scope.SMOKE})
BOTH: Final = QUICK | SMOKE

KIB: Final = 1024
MIB: Final = 1024 * KIB
FIXED_RATE: Final = "fixed-rate"
PLAIN: Final = "plain-64"
HOSTS: Final = 500
HOSTS_ASKED: Final = 4
"""Of which one is asked whose services' connections and counters stay in the caches."""
SERVICES: Final = 2 * HOSTS
"""A service for each host, and one for its paths from /b on."""
IDLE_CONNECTIONS: Final = 10_000
EVENT_STREAMS: Final = 1_000
SLOW_READERS: Final = 64
MESSAGE_BYTES: Final = 125
SWITCH_EVERY_S: Final = 0.1


def _turnouts(*variants: Variant) -> tuple[Contestant, ...]:
    return (TURNOUT, *(Contestant("turnout", each) for each in variants))


def _file(name: str, size: int) -> Request:
    return Request(path=f"/f/{name}.bin", varies=False, answer_bytes=size)


def _post(size: int) -> Request:
    return Request(method="POST", body_bytes=size)


WORKLOADS: Final = (
    Workload(PLAIN, "100 B, 64 connections", HEADS, scopes=BOTH),
    Workload(
        "browser-heads", "100 B, 20 browser-like fields each way", HEADS,
        request=Request(path="/h/", heads=Heads.BROWSER), scopes=QUICK,
    ),
    Workload("plain-256", "100 B, 256 connections", ALL, connections=256, scopes=QUICK),
    Workload(
        FIXED_RATE, "100 B at half the rate of the slowest of nginx, HAProxy, Turnout", FEW,
        Drive.FIXED_RATE, compared=Measure.P99_MS, rounds_least=5, scopes=SMOKE,
    ),
    Workload("10-kib", "10 KiB answers", ALL, request=_file("10k", 10 * KIB)),
    Workload("64-kib", "64 KiB answers", LARGE_ALL, request=_file("64k", 64 * KIB), scopes=QUICK),
    Workload(
        "1-mib", "1 MiB answers", LARGE_ALL,
        request=_file("1m", MIB), compared=Measure.CPU_MIB_US, scopes=QUICK,
    ),
    Workload(
        "64-mib", "64 MiB answers, 8 connections", LARGE,
        request=_file("64m", 64 * MIB), connections=8, compared=Measure.CPU_MIB_US,
    ),
    Workload(
        "fresh", "a fresh connection each request", ALL,
        request=Request(close=True), scopes=QUICK,
    ),
    Workload(
        "post-10-kib", "POST of 10 KiB", ALL,
        request=_post(10 * KIB), origin=Origin.APP, scopes=SMOKE,
    ),
    Workload(
        "post-1-mib", "POST of 1 MiB", ALL,
        request=_post(MIB), origin=Origin.APP, compared=Measure.CPU_MIB_US,
    ),
    Workload(
        "chunked", "chunked answers, 10 chunks of 1 KiB", ALL,
        request=Request(path="/chunked/", answer_bytes=10 * KIB), origin=Origin.APP,
    ),
    Workload(
        "websocket", "WebSocket echoes of 125-byte messages", ALL, Drive.WEBSOCKET,
        origin=Origin.APP, scopes=SMOKE,
    ),
    Workload(
        "event-streams", "1,000 event streams, 5 events a second on each", ALL,
        Drive.EVENT_STREAMS, origin=Origin.APP, scopes=SMOKE,
    ),
    Workload(
        "weights", "weights 90/10 against one upstream", _turnouts(Variant.WEIGHTS),
        base="turnout", rounds_least=5,
    ),
    Workload(
        "log", "JSON access log on against off", _turnouts(Variant.LOG),
        base="turnout", scopes=SMOKE,
    ),
    Workload(
        "services", "1,000 services by host and path, 8 of them asked, against one",
        _turnouts(Variant.SERVICES), request=Request(hosts=HOSTS_ASKED), base="turnout",
        rounds_least=5,
    ),
    Workload(
        "services-spread", "1,000 services, all of them asked, against one",
        _turnouts(Variant.SERVICES), request=Request(hosts=HOSTS), base="turnout",
    ),
    Workload(
        "services-haproxy", "HAProxy: 1,000 backends, all of them asked, against one",
        (HAPROXY, Contestant("haproxy", Variant.SERVICES)), request=Request(hosts=HOSTS),
    ),
    Workload(
        "switching", "a switch every 100 ms against none",
        _turnouts(Variant.SWITCHING, Variant.SWITCHING_APART),
        compared=Measure.RATE_S, base="turnout", rounds_least=5, scopes=SMOKE,
    ),
    Workload(
        "two-workers", "2 workers against 1, 128 connections",
        (Contestant("turnout", Variant.ONE_WORKER), Contestant("turnout", Variant.TWO_WORKERS)),
        connections=128, compared=Measure.RATE_S, base="turnout 1 worker", two_workers=True,
    ),
    Workload(
        "switch-latency", "an atomic switch under load, until all have acknowledged it", (TURNOUT,),
        Drive.SWITCH_LATENCY, compared=Measure.P99_MS, switches=110, rounds_most=3, scopes=SMOKE,
    ),
    Workload(
        "idle", "10,000 idle connections", FEW, Drive.IDLE,
        compared=Measure.IDLE_KIB, fresh=True, rounds_most=2, scopes=SMOKE,
    ),
    Workload(
        "slow-readers", "64 slow readers of 1 GiB each", FEW, Drive.SLOW_READERS,
        compared=Measure.ABOVE_REST_MIB, fresh=True, rounds_most=1, scopes=SMOKE,
    ),
    Workload(
        "start", "from exec to the first answer", FEW, Drive.START,
        compared=Measure.START_S, fresh=True, scopes=SMOKE,
    ),
)  # fmt: skip

_LARGE_BARS = (
    ("64-kib", Measure.CPU_US, (0.9, 0.75), (1.1, 0.9)),
    ("1-mib", Measure.CPU_MIB_US, (0.7, 0.5), (1.6, 1.0)),
    ("64-mib", Measure.CPU_MIB_US, (0.5, 0.3), (1.0, 0.7)),
)

BARS: Final = (
    *(Bar(name, Measure.CPU_US, 1.25, 1.0) for name in (PLAIN, "browser-heads", "plain-256")),
    *(
        Bar(PLAIN, Measure.CPU_US, limit, base=peer)
        for peer, limit in (("envoy", 0.5), ("traefik", 0.33), ("caddy", 0.2), ("aiohttp", 0.1))
    ),
    *(
        Bar(name, measure, *limits, base=base)
        for name, measure, plain, splice in _LARGE_BARS
        for base, limits in (("haproxy", plain), (SPLICE.name, splice))
    ),
    Bar("fresh", Measure.CPU_US, 1.25, 1.0),
    Bar(FIXED_RATE, Measure.P99_MS, 1.25, 1.0, separate=Separate.PROXY_LOAD_AND_ORIGIN),
    Bar("log", Measure.CPU_US, 1.25, 1.1, contestant="turnout log", base="turnout"),
    Bar("weights", Measure.CPU_US, 1.05, contestant="turnout 90/10", base="turnout"),
    Bar("services", Measure.CPU_US, 1.05, contestant="turnout 1000 services", base="turnout"),
    Bar(
        "two-workers", Measure.RATE_S, 1.9, contestant="turnout 2 workers",
        base="turnout 1 worker", at_least=True, separate=Separate.TWO_WORKERS_LOAD_AND_ORIGIN,
    ),
    Bar("switching", Measure.RATE_S, 0.98, contestant="turnout switching", base="turnout",
        at_least=True),
    Bar("switching", Measure.P99_MS, 1.2, contestant="turnout switching", base="turnout"),
    Bar("switch-latency", Measure.P99_MS, 10.0, 5.0, base=None),
    Bar("idle", Measure.REST_MIB, 30.0, base=None),
    Bar("idle", Measure.IDLE_KIB, 3.0, 1.5, base=None),
    Bar("slow-readers", Measure.ABOVE_REST_MIB, 64.0, base=None),
    Bar("start", Measure.START_S, 0.5, 0.2, base=None),
    Bar("start", Measure.START_AGAIN_S, 0.5, 0.2, base=None),
)  # fmt: skip


def chosen(names: tuple[str, ...], scope: Scope) -> tuple[Workload, ...]:
    """The workloads of these names; without any, those of the scope, with who takes part in it.

    Raises ValueError for a name that there is not.
    """
    known = [each.name for each in WORKLOADS]
    unknown = set(names) - set(known)
    if unknown:
        raise ValueError(f"no workload {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    found = [each for each in WORKLOADS if each.name in names]
    if not names:
        found = [each for each in WORKLOADS if scope in each.scopes or scope is Scope.FULL]
    if FIXED_RATE in names and PLAIN not in names:  # which says at what rate
        [plain] = [each for each in WORKLOADS if each.name == PLAIN]
        found.insert(0, plain)
    return tuple(_for(scope, each) for each in found)


def _for(scope: Scope, workload: Workload) -> Workload:
    if scope is Scope.FULL or (scope is Scope.SMOKE and workload.name == PLAIN):
        return workload
    # The ratio is tried with wrk and h2load; where the clients are our own, that they work is all.
    own = workload.drive not in (Drive.SATURATE, Drive.FIXED_RATE)
    kept = ("turnout",) if scope is Scope.SMOKE and own else ("turnout", "haproxy")
    return replace(
        workload, contestants=tuple(each for each in workload.contestants if each.peer in kept)
    )
