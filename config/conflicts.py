"""What must hold between settings that are each right by themselves.

Yields, never raises: a person wants to see all that is wrong at once.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, TypeAlias

from turnout.config.address import Address, AddressKind
from turnout.config.document import Place, dotted
from turnout.config.model import ATOMIC, BY_HAND
from turnout.config.table import LISTENERS_LIMITED_MAX

if TYPE_CHECKING:
    from turnout.config.service_settings import Service
    from turnout.config.settings import Settings

CONFLICTS: Final = "conflicts"
"""Type of the validation error that carries what does not go together."""

Conflict: TypeAlias = tuple[Place, str]
"""Where it is, and what was expected and what to write."""


def conflicts(settings: "Settings") -> Iterator[Conflict]:
    """Say what does not go together in `settings`, in the file's order."""
    yield from _binds(settings)
    yield from _listener_limits(settings)
    yield from _tokens(settings)
    yield from _reach(settings)
    if settings.resolver.ttl_min > settings.resolver.ttl_max:
        yield ("resolver", "ttl_min"), "it is more than ttl_max. Write a shorter one"
    yield from _matches(settings)
    for name, service in settings.services.items():
        place: Place = ("services", name)
        yield from _upstreams(settings, service, place)
        yield from _strategies(service, place)
        yield from _outer(settings, service, place)
    yield from _moved_twice(settings)


def _binds(settings: "Settings") -> Iterator[Conflict]:
    seen: list[tuple[Address, str]] = []
    binds: list[tuple[Place, Address]] = [
        (("listeners", index, "bind"), listener.bind)
        for index, listener in enumerate(settings.listeners)
    ]
    for place, bind in [*binds, (("control", "bind"), settings.control.bind)]:
        for other, key in seen:
            if _same_socket(bind, other):
                yield place, f"{key} is {other}, and they cannot both be had. Write another"
                break
        seen.append((bind, dotted(place)))


def _listener_limits(settings: "Settings") -> Iterator[Conflict]:
    limited = [index for index, listener in enumerate(settings.listeners) if listener.connections]
    for index in limited[LISTENERS_LIMITED_MAX:]:
        yield (
            ("listeners", index, "connections"),
            f"{LISTENERS_LIMITED_MAX} listeners may have a limit of their own. Leave it out",
        )


def _same_socket(one: Address, other: Address) -> bool:
    if one.port != other.port or one.path != other.path:
        return False
    if one.port == 0 and one.kind is AddressKind.INET:  # the system chooses two
        return one.host == other.host
    if one.kind is AddressKind.UNIX or one.host == other.host:
        return True
    return _covers(one, other) or _covers(other, one)


def _covers(every: Address, one: Address) -> bool:
    """Whether `every` is the wildcard of the interface that `one` names."""
    if every.host == "":
        return True
    return every.host == ("::" if ":" in one.host else "0.0.0.0")


def _tokens(settings: "Settings") -> Iterator[Conflict]:
    control = settings.control
    if control.bind.kind is AddressKind.INET and not control.bind.port:
        yield ("control", "bind"), "the command line could not find it. Write a port, such as 9180"
    if not control.tokens and not control.bind.is_loopback:
        yield (
            ("control", "bind"),
            "other machines can reach it, so it needs control.tokens. Bind to 127.0.0.1, or "
            'write tokens: [{name: ops, scope: write, token: "${TURNOUT_TOKEN}"}]',
        )
    for index, token in enumerate(control.tokens):
        place: Place = ("control", "tokens", index)
        if token.token is None and token.token_file is None:
            yield place, 'it has no token. Write token: "${TURNOUT_TOKEN}", or token_file'
        elif token.token is not None and token.token_file is not None:
            yield (*place, "token_file"), "it has a token too. Remove one of the two"
    names = [token.name for token in control.tokens]
    secrets = [token.token or token.token_file for token in control.tokens]
    for field, values in (("name", names), ("token", secrets)):
        for index, value in enumerate(values):
            if value is not None and (first := values.index(value)) < index:
                key = field
                if field == "token" and control.tokens[index].token is None:
                    key = "token_file"
                yield (
                    ("control", "tokens", index, key),
                    f"control.tokens.{first} has the same {field}. Write another",
                )


def _reach(settings: "Settings") -> Iterator[Conflict]:
    """Who gets at the control API, and how."""
    control = settings.control
    unix = control.bind.kind is AddressKind.UNIX
    if "*" in control.hosts and not control.tokens and not unix:
        yield (
            ("control", "hosts", control.hosts.index("*")),
            "without control.tokens every web page in a browser of this machine could call the "
            "API under a name of its own. Write the names, or control.tokens",
        )
    if control.tls is not None and unix:
        yield ("control", "tls"), "control.bind is a Unix socket, which needs no TLS. Remove it"
    if control.socket_mode is None:
        return
    if not unix:
        yield ("control", "socket_mode"), f"control.bind is {control.bind}, no file. Remove it"
    elif control.socket_mode & 0o002 and not control.tokens:
        yield (
            ("control", "socket_mode"),
            "everybody on this machine could connect, and there are no control.tokens. "
            'Write "0660" for a group, or control.tokens',
        )


def _matches(settings: "Settings") -> Iterator[Conflict]:
    owners: dict[tuple[str, str], str] = {}
    if len(settings.services) > settings.limits.services:
        yield ("services",), f"there are more than limits.services ({settings.limits.services})"
    for name, service in settings.services.items():
        prefix = service.match.path_prefix
        for host in service.match.hosts or ("",):
            owner = owners.setdefault((host, prefix), name)
            if owner != name:
                what = f"{host or 'every host'} with path prefix {prefix}"
                yield (
                    ("services", name, "match"),
                    f"services.{owner} matches {what} too. Write another host or path_prefix",
                )
        for index, host in enumerate(service.match.hosts):
            if host in service.match.hosts[:index]:
                yield ("services", name, "match", "hosts", index), "it is listed twice. Remove one"


def _outer(settings: "Settings", service: "Service", place: Place) -> Iterator[Conflict]:
    """What names upstreams and listeners from without."""
    for name, gate in service.gates.items():
        for below, text in gate.conflicts():
            yield (*place, "gates", name, *below), text
    if service.outer is None:
        return
    for below, text in service.outer.conflicts(tuple(service.upstreams)):
        yield (*place, "outer", *below), text
    if service.outer.tail is None:
        return
    binds = [str(listener.bind) for listener in settings.listeners]
    seen: dict[str, str] = {}
    for name, there in service.outer.tail.listeners.items():
        here: Place = (*place, "outer", "tail", "listeners", name)
        if name not in service.upstreams:
            yield (
                here,
                f"it is no upstream of the service. Write one of {', '.join(service.upstreams)}",
            )
        for bind in map(str, there):
            if bind not in binds:
                yield here, f"{bind} is no listener. Write the bind of one of listeners"
            elif seen.setdefault(bind, name) != name:
                yield here, f"{bind} is {seen[bind]}'s already: what comes in there is of one side"


def _moved_twice(settings: "Settings") -> Iterator[Conflict]:
    """Two services whose switchovers would move the same thing."""
    seen: list[tuple[str, object]] = []
    for name, service in settings.services.items():
        if service.outer is None:
            continue
        target = service.outer.target
        twin = next((other for other, there in seen if there == target), None)
        if twin is not None:
            yield (
                ("services", name, "outer"),
                f"services.{twin}.outer moves the same, and each would undo the other. Write another",
            )
        seen.append((name, target))


def _upstreams(settings: "Settings", service: "Service", place: Place) -> Iterator[Conflict]:
    names = list(service.upstreams)
    if len(names) != 2:
        what = f"{len(names)} ({', '.join(names)})" if names else "none"
        yield (*place, "upstreams"), f"expected exactly two upstreams, found {what}"
        return
    if service.initial is not None and service.initial not in names:
        yield (*place, "initial"), f"expected one of {names[0]}, {names[1]}"
    initial = service.initial or names[0]
    owners: dict[str, Place] = {}
    for name, upstream in service.upstreams.items():
        here: Place = (*place, "upstreams", name)
        if upstream.discover is not None:
            continue  # how many it has is found out
        if not upstream.servers_given:
            yield (*here, "servers"), "it must be given: a list of addresses; or discover"
        elif not upstream.servers and name == initial:
            yield (*here, "servers"), "it is empty, but all traffic begins here. Write an address"
        if len(upstream.servers) > settings.limits.servers:
            limit = settings.limits.servers
            yield (*here, "servers"), f"there are more than limits.servers ({limit})"
        if 0 < len(upstream.servers) < upstream.min_healthy:
            yield (
                (*here, "min_healthy"),
                f"it has {len(upstream.servers)} servers only, so it could never be healthy. "
                f"Write {len(upstream.servers)} or less",
            )
        for index, server in enumerate(upstream.servers):
            spot: Place = (*here, "servers", index)
            if server in owners:
                yield (
                    spot,
                    f"{dotted(owners[server])} is the same server. A server belongs to one "
                    f"upstream, once. Remove one",
                )
            owners.setdefault(server, spot)
            yield from _loops(settings, server, spot)


def _loops(settings: "Settings", server: str, spot: Place) -> Iterator[Conflict]:
    address = Address.parse(server)
    for index, listener in enumerate(settings.listeners):
        bind = listener.bind
        if (bind.port, bind.path) != (address.port, address.path):
            continue
        everywhere = bind.host in ("", "0.0.0.0", "::") and address.is_loopback
        if bind.host == address.host or everywhere:
            yield spot, f"Turnout itself listens there (listeners.{index}.bind). Write another"


def _strategies(service: "Service", place: Place) -> Iterator[Conflict]:
    policy = service.switchover
    for name, strategy in policy.strategies.items():
        here: Place = (*place, "switchover", "strategies", name)
        if name in (ATOMIC, BY_HAND):
            yield here, f"{name} has a meaning of its own. Write another name"
        if strategy.approval and strategy.pause_given:
            yield (
                (*here, "pause"),
                "with approval: true a step is held until somebody approves. Remove one of the two",
            )
        if strategy.approval and len(strategy.steps) == 1:
            yield (
                (*here, "approval"),
                "it has one step, and nothing is waited for behind the last one. Write "
                "another step before it, such as steps: [1, 100]",
            )
    known = [ATOMIC, *(name for name in policy.strategies if name != ATOMIC)]
    if policy.default not in known:
        yield (*place, "switchover", "default"), f"expected one of {', '.join(known)}"
