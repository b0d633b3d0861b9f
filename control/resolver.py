"""Server names -> addresses, kept up to date: DNS by TTL, /etc/hosts at an interval.

A routing table has addresses only, as a worker must never wait for a name server. This keeps
watching the names that stand behind them and calls back when what they mean has changed; a
new table is compiled then. What is known is never thrown away for want of an answer: a name
server that fails, or that says there is nothing, leaves the last addresses in place and is
told.
"""

import asyncio
import ipaddress
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import dns.asyncresolver
import dns.exception
import dns.rdatatype
import dns.resolver

from turnout.config.address import Address
from turnout.config.model import Resolver as ResolverPolicy
from turnout.control.loops import Tell, keep_running

HOSTS_FILE: Final = Path("/etc/hosts")
RESOLV_CONF: Final = Path("/etc/resolv.conf")

Changed = Callable[[Mapping[str, tuple[str, ...]]], None]
"""Called with `endpoints()` when it has changed."""


@dataclass(frozen=True, slots=True)
class Families:
    """The addresses of one name, by family, each sorted."""

    v4: tuple[str, ...] = ()
    v6: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        return self.v4 + self.v6

    @classmethod
    def of(cls, addresses: Iterable[str]) -> "Families":
        """Sort textual IP addresses. Raises ValueError for what is none."""
        parsed = sorted({ipaddress.ip_address(address) for address in addresses}, key=int)
        return cls(
            tuple(str(address) for address in parsed if address.version == 4),
            tuple(str(address) for address in parsed if address.version == 6),
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """What was found for one family. `addresses` None: no answer, for the reason in `error`."""

    addresses: tuple[str, ...] | None
    ttl_s: float | None = None
    """None: the source has no TTL (a file), or there was no answer."""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Lookup:
    """What is known of a name. `error` says why it is not all fresh; empty: it is."""

    families: Families = Families()
    error: str = ""
    ttl_s: float | None = None


def settle(before: Families, v4: Answer, v6: Answer) -> Lookup:
    """Join two answers with what was known before.

    A family without an answer keeps its addresses. If nothing at all would be left, all of
    them stay: an upstream is never emptied by a name server.
    """
    after = Families(
        before.v4 if v4.addresses is None else v4.addresses,
        before.v6 if v6.addresses is None else v6.addresses,
    )
    answers = (v4, v6)
    ttl_s = min((answer.ttl_s for answer in answers if answer.ttl_s is not None), default=None)
    failed = next((answer.error for answer in answers if answer.addresses is None), "")
    if after.all:
        return Lookup(after, failed, ttl_s)
    nothing = next((answer.error for answer in answers if answer.error), "it has no addresses")
    return Lookup(before, failed or nothing, ttl_s)


def wait_s(lookup: Lookup, failures: int, policy: ResolverPolicy) -> float:
    """When to look again: `failures` lookups in a row, the last one included, had errors."""
    if failures:
        longest = min(policy.failed_max_s, policy.ttl_max_s)
        return float(min(policy.ttl_min_s * 2.0 ** min(failures - 1, 30), longest))
    if lookup.ttl_s is None:
        return policy.hosts_interval_s
    return min(max(lookup.ttl_s, policy.ttl_min_s), policy.ttl_max_s)


def parse_hosts(text: str) -> dict[str, Families]:
    """Read /etc/hosts (hosts(5)): name in lower case -> addresses. Other lines are skipped."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        try:
            ipaddress.ip_address(address)
        except ValueError:
            continue
        if "%" in address:  # fe80::1%eth0: what eth0 is, no table can say
            continue
        for name in names:
            found.setdefault(name.lower().rstrip("."), []).append(address)
    return {name: Families.of(addresses) for name, addresses in found.items()}


def system_dns() -> dns.asyncresolver.Resolver:
    """The name servers and search domains of /etc/resolv.conf. Raises DNSException without."""
    return dns.asyncresolver.Resolver(str(RESOLV_CONF))


# ---------------------------------------------------------------- one source


class _Source:
    """/etc/hosts and the name servers, each read again when its file has changed."""

    __slots__ = ("_dns", "_dns_stamp", "_hosts", "_hosts_path", "_hosts_stamp", "_make_dns")

    def __init__(self, hosts_path: Path, make_dns: Callable[[], dns.asyncresolver.Resolver]):
        self._hosts_path = hosts_path
        self._make_dns = make_dns
        self._hosts: dict[str, Families] = {}
        self._hosts_stamp: tuple[int, int] | None = None
        self._dns: dns.asyncresolver.Resolver | None = None
        self._dns_stamp: tuple[int, int] | None = None

    async def look_up(self, host: str, before: Families, timeout_s: float) -> Lookup:
        """Ask the file, else the name servers for both families at once."""
        name = host.lower()
        found = self._hosts_now().get(name.rstrip("."))
        if found is None and name.rstrip(".") == "localhost":
            found = Families(("127.0.0.1",))  # never a name server's to say: RFC 6761, 6.3
        if found is not None:
            return Lookup(found)
        v4, v6 = await asyncio.gather(
            self._ask(name, dns.rdatatype.A, timeout_s),
            self._ask(name, dns.rdatatype.AAAA, timeout_s),
        )
        return settle(before, v4, v6)

    def _hosts_now(self) -> dict[str, Families]:
        stamp = _stamp(self._hosts_path)
        if stamp != self._hosts_stamp:
            text = self._hosts_path.read_text("utf-8", "replace") if stamp else ""
            self._hosts, self._hosts_stamp = parse_hosts(text), stamp
        return self._hosts

    async def _ask(self, name: str, kind: dns.rdatatype.RdataType, timeout_s: float) -> Answer:
        try:
            resolver = self._dns_now()
            resolver.timeout = timeout_s / 2  # of each attempt: room to ask a second time
            answer = await resolver.resolve(
                name, kind, raise_on_no_answer=False, lifetime=timeout_s, search=True
            )
        except dns.resolver.NXDOMAIN:
            return Answer((), error="there is no such name")
        except dns.exception.Timeout:
            return Answer(None, error=f"no name server answered in {timeout_s:g} s")
        except dns.resolver.NoNameservers:
            return Answer(None, error="every name server refused or failed to answer")
        except (dns.exception.DNSException, OSError) as error:
            return Answer(None, error=f"{type(error).__name__}: {error}")
        ttl_s = float(answer.chaining_result.minimum_ttl)
        addresses = [record.address for record in answer.rrset] if answer.rrset else []
        families = Families.of(addresses)
        return Answer(families.all, ttl_s, "" if addresses else "it has no addresses")

    def _dns_now(self) -> dns.asyncresolver.Resolver:
        stamp = _stamp(RESOLV_CONF)
        if self._dns is None or stamp != self._dns_stamp:
            self._dns, self._dns_stamp = self._make_dns(), stamp
        return self._dns


def _stamp(path: Path) -> tuple[int, int] | None:
    """Tells one content of a file from the next; None while it is missing."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_ino


# ---------------------------------------------------------------- all names


class _Name:
    """One watched host name."""

    __slots__ = ("failures", "known", "looked_up", "task")

    def __init__(self, known: Families) -> None:
        self.known = Lookup(known)
        self.failures = 0
        self.looked_up = asyncio.Event()
        self.task: asyncio.Task[None] | None = None


class Resolver:
    """Watches the names of servers. To be used in one event loop.

    >>> resolver = Resolver(policy, changed=recompile, tell=tell)
    >>> resolver.watch({"app:9001"}, known={"app:9001": ["10.0.0.7:9001"]})
    """

    __slots__ = (
        "_addresses",
        "_bound",
        "_changed",
        "_last",
        "_names",
        "_policy",
        "_source",
        "_tell",
    )

    def __init__(
        self,
        policy: ResolverPolicy,
        *,
        changed: Changed,
        tell: Tell,
        hosts_path: Path = HOSTS_FILE,
        make_dns: Callable[[], dns.asyncresolver.Resolver] = system_dns,
    ) -> None:
        self._policy = policy
        self._changed = changed
        self._tell = tell
        self._source = _Source(hosts_path, make_dns)
        self._addresses: dict[str, Address] = {}
        self._names: dict[str, _Name] = {}
        self._last: Mapping[str, tuple[str, ...]] = {}
        self._bound = asyncio.Semaphore(policy.concurrency)

    def watch(
        self,
        addresses: Iterable[str],
        known: Mapping[str, Sequence[str]] | None = None,
        policy: ResolverPolicy | None = None,
    ) -> None:
        """Watch the names of these server addresses (`app:9001`) from now on, and no others.

        `known` gives endpoints that are served already; they stand until the first answer.
        Names that stay keep what is known of them.
        """
        if policy is not None:
            if policy.concurrency != self._policy.concurrency:
                self._bound = asyncio.Semaphore(policy.concurrency)
            self._policy = policy
        self._addresses = {address: Address.parse(address) for address in addresses}
        wanted = {address.host for address in self._addresses.values()}
        for host in self._names.keys() - wanted:
            self._forget(host)
        seeds = _seeds(self._addresses, known or {})
        for host in sorted(wanted - self._names.keys()):
            name = _Name(seeds.get(host, Families()))
            self._names[host] = name
            name.task = asyncio.create_task(
                keep_running(f"resolving {host}", partial(self._keep, host), self._tell),
                name=f"resolve {host}",
            )
        self._last = self.endpoints()

    def endpoints(self) -> dict[str, tuple[str, ...]]:
        """Each watched address with what to connect to, sorted; without names never found."""
        found = {}
        for text, address in self._addresses.items():
            families = self._names[address.host].known.families
            if families.all:
                found[text] = tuple(str(_at(address, ip)) for ip in families.all)
        return found

    def errors(self) -> dict[str, str]:
        """Each watched address whose name has no fresh answer, with the reason."""
        return {
            text: error
            for text, address in self._addresses.items()
            if (error := self._names[address.host].known.error)
        }

    async def looked_up(self) -> None:
        """Wait until each name has been looked up once, found or not."""
        await asyncio.gather(*(name.looked_up.wait() for name in list(self._names.values())))

    async def close(self) -> None:
        tasks = [name.task for name in self._names.values() if name.task is not None]
        for host in list(self._names):
            self._forget(host)
        self._addresses = {}
        await asyncio.gather(*tasks, return_exceptions=True)

    def _forget(self, host: str) -> None:
        task = self._names.pop(host).task
        if task is not None:
            task.cancel()

    async def _keep(self, host: str) -> None:
        while True:
            name = self._names[host]
            async with self._bound:
                policy = self._policy
                found = await self._source.look_up(host, name.known.families, policy.timeout_s)
            self._take(host, name, found)
            await asyncio.sleep(wait_s(found, name.failures, policy))

    def _take(self, host: str, name: _Name, found: Lookup) -> None:
        before, name.known = name.known, found
        name.failures = name.failures + 1 if found.error else 0
        name.looked_up.set()
        addresses = ", ".join(found.families.all)
        if found.error and found.error != before.error:
            serving = f"its last addresses stay: {addresses}" if addresses else "it gets no traffic"
            self._tell(
                f"server name {host} cannot be resolved: {found.error}; {serving}",
                f"try `getent ahosts {host}`, and look at /etc/resolv.conf",
            )
        elif before.error and not found.error:
            self._tell(f"server name {host} is resolved again: {addresses}", "nothing")
        now = self.endpoints()
        if now != self._last:
            self._last = now
            self._changed(now)


def _at(address: Address, ip: str) -> Address:
    """The same port at an IP address."""
    return Address.parse(f"[{ip}]:{address.port}" if ":" in ip else f"{ip}:{address.port}")


def _seeds(
    addresses: Mapping[str, Address], known: Mapping[str, Sequence[str]]
) -> dict[str, Families]:
    hosts: dict[str, list[str]] = {}
    for text, endpoints in known.items():
        if text in addresses:
            hosts.setdefault(addresses[text].host, []).extend(
                Address.parse(endpoint).host for endpoint in endpoints
            )
    return {host: Families.of(found) for host, found in hosts.items()}
