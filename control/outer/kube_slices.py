"""Pure: EndpointSlices of a Service -> its servers; pods and slices -> whether they agree.

Source: the types of discovery.k8s.io/v1. All slices of a Service together are its
endpoints, an endpoint may for a moment be in two of them, and what a condition leaves out has a
meaning: `ready` and `serving` are true, `terminating` is false.
"""

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from turnout.control.outer.seams import FoundServer

SERVICE_LABEL: Final = "kubernetes.io/service-name"
_FAMILIES: Final = ("IPv4", "IPv6")
"""In the order in which they are preferred where a pod has both. FQDN has no meaning."""


@dataclass(frozen=True, slots=True)
class Found:
    servers: tuple[FoundServer, ...]
    complete: bool
    """False: a slice could not be understood."""
    problems: tuple[str, ...]


class _NotUnderstood(ValueError):
    pass


def servers_in(slices: Iterable[Mapping[str, Any]], port: str) -> Found:
    """The servers of a Service at a port: its name, its number, or nothing for the only one."""
    problems: list[str] = []
    found: dict[str, FoundServer] = {}
    owners: dict[tuple[str, int], str] = {}
    """(Pod, port) -> its address: of a pod with two families one address is used."""
    usable = [one for one in slices if one.get("addressType") in _FAMILIES]
    with_port = 0
    for slice in sorted(usable, key=_by_family_and_name):
        try:
            numbers = _ports(slice, port)
            with_port += bool(numbers)
            for number in numbers:
                for endpoint, uid in _endpoints(slice, number):
                    owner = owners.setdefault((uid, number), endpoint.address) if uid else ""
                    if not owner or owner == endpoint.address:
                        known = found.get(endpoint.address)
                        found[endpoint.address] = _merged(known, endpoint)
        except _NotUnderstood as error:
            problems.append(f"EndpointSlice {_name(slice)}: {error}")
    complete = not problems
    if usable and not with_port and complete:
        problems.append(f"none of its {len(usable)} EndpointSlices has a port {port}")
    return Found(tuple(found[key] for key in sorted(found)), complete, tuple(problems))


def _by_family_and_name(slice: Mapping[str, Any]) -> tuple[int, str]:
    return _FAMILIES.index(slice["addressType"]), _name(slice)


def _name(slice: Mapping[str, Any]) -> str:
    return str((slice.get("metadata") or {}).get("name", "?"))


def _ports(slice: Mapping[str, Any], wanted: str) -> list[int]:
    """The slice's numbers of the wanted port; none: it has no such. Raises _NotUnderstood."""
    ports = [one for one in slice.get("ports") or () if one.get("protocol") in (None, "TCP")]
    if wanted.isdecimal():
        number = int(wanted)
        # No port at all: the pods are reached at any.
        return (
            [number] if not ports or any(one.get("port") in (number, None) for one in ports) else []
        )
    if wanted:
        ports = [one for one in ports if (one.get("name") or "") == wanted]
    elif len(ports) > 1:
        names = ", ".join(str(one.get("name") or one.get("port")) for one in ports)
        raise _NotUnderstood(f"it has several ports: {names}. Set port to one of them")
    numbers = [one.get("port") for one in ports]
    if (not wanted and not numbers) or None in numbers:
        raise _NotUnderstood("it says no port. Set port to a number")
    return [int(number) for number in numbers]


def _endpoints(slice: Mapping[str, Any], port: int) -> Iterator[tuple[FoundServer, str]]:
    """Each endpoint with its pod's uid. Raises _NotUnderstood."""
    for endpoint in slice.get("endpoints") or ():
        addresses = endpoint.get("addresses")
        try:
            # Beyond the first they have no meaning.
            address = ipaddress.ip_address(addresses[0])
        except (ValueError, TypeError, IndexError, KeyError):
            raise _NotUnderstood(f"the addresses {addresses!r} of an endpoint are none") from None
        conditions = endpoint.get("conditions") or {}
        host = f"[{address}]" if address.version == 6 else str(address)
        draining = conditions.get("terminating") is True
        # A Service with publishNotReadyAddresses calls ready what is terminating, too.
        ready = conditions.get("ready") is not False and not draining
        uid = str((endpoint.get("targetRef") or {}).get("uid") or "")
        yield FoundServer(f"{host}:{port}", ready, draining), uid


def _merged(known: FoundServer | None, now: FoundServer) -> FoundServer:
    """Of an endpoint in two slices, one is behind: what it loses if it is ready is more."""
    return known if known is not None and (known.ready or not now.ready) else now


# ---------------------------------------------------------------- pods


def awaited(pods: Sequence[Mapping[str, Any]], slices: Iterable[Mapping[str, Any]]) -> str:
    """What is still missing until a Service's endpoints are its selector's pods; empty: nothing.

    `pods` are those that the selector names, whatever state they are in.
    """
    uids = {_uid(pod) for pod in pods}
    ready = {_uid(pod) for pod in pods if is_ready(pod)}
    there: set[str] = set()
    others = 0
    for slice in slices:
        for endpoint in slice.get("endpoints") or ():
            if (endpoint.get("conditions") or {}).get("ready") is False:
                continue
            uid = str((endpoint.get("targetRef") or {}).get("uid") or "")
            there.add(uid)
            others += uid not in uids
    if others:
        return f"{others} endpoints are of pods that the selector does not name"
    if not ready:
        return f"none of the {len(uids)} pods that the selector names is ready"
    if missing := ready - there:
        return f"{len(missing)} of {len(ready)} ready pods are no endpoints yet"
    return ""


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Its condition says so, and it is not being deleted."""
    if (pod.get("metadata") or {}).get("deletionTimestamp"):
        return False
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)


def _uid(pod: Mapping[str, Any]) -> str:
    return str((pod.get("metadata") or {}).get("uid", ""))
