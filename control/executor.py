"""The one place that causes a switchover's effects: what the API may ask for, and its start.

The order is always: store, act, record. This file takes a person's wish, lets the pure parts
judge it (`decider`, `switchover`), stores the decision, and leaves it to a `Carrier`, one for
each switchover under way. A wish that is refused raises a `refusals.Refusal` and has changed
nothing; StoreUnusable means that it could not be stored, and so did not happen.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from turnout.config.address import Address
from turnout.config.model import BY_HAND, Configuration, OuterOrder, Service
from turnout.config.weights import Percentage, Weights
from turnout.control import decider, events, recovery, switchover, wishes
from turnout.control.carrier import Ask, Carrier, World
from turnout.control.clock import Clock
from turnout.control.gating import GateKeeper
from turnout.control.holds import Holds
from turnout.control.journal import Journal
from turnout.control.outer.layers import OuterLayers
from turnout.control.outer.mover import preview
from turnout.control.outer.seams import OuterError
from turnout.control.ports import Prober, Tables, Tails, Workers
from turnout.control.refusals import (
    BadServers,
    BadWeights,
    IllegalVerb,
    NothingToRollBack,
    OuterUnusable,
    ServerNeeded,
    ServersDiscovered,
    SwitchoverUnderWay,
    TableRefused,
    Unhealthy,
    UnknownService,
    UnknownStrategy,
    UnknownSwitchover,
    UnknownUpstream,
    stale,
)
from turnout.control.state import OuterPart, State, Switchover, without_weight
from turnout.control.store import (
    Audit,
    Author,
    Database,
    Note,
    ServiceRow,
    StaleRevision,
    Store,
    UnderWay,
    UpstreamHasWeight,
)
from turnout.control.wishes import Wish
from turnout.control.words import Words, whole

ROLLBACK: Final = "rollback"
"""The name in the history of a rollback of a switchover that had ended."""
TICK_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class ServiceView:
    """A service as it is now."""

    row: ServiceRow
    switchover: Switchover | None
    """The one under way."""
    in_flight: tuple[int, int]
    """Of the first and the second upstream."""


class Executor:
    """Carries out what people and the decider want; made once, in the control process."""

    def __init__(
        self,
        *,
        store: Store,
        workers: Workers,
        prober: Prober,
        tables: Tables,
        journal: Journal,
        configuration: Configuration,
        clock: Clock,
        outer: OuterLayers | None = None,
        tails: Tails | None = None,
        tick_s: float = TICK_S,
    ) -> None:
        """`tick_s` is how often conditions are looked at."""
        self._services = {service.name: service for service in configuration.services}
        self._configuration = configuration
        self._tables = tables
        self._carriers: dict[str, Carrier] = {}
        """Service -> its switchover under way, or its last one."""
        self.outer = outer or OuterLayers(store, journal, journal.problem, clock.wall)
        """What is beyond the proxy; empty unless the configuration names something."""
        self.outer.configure(configuration)
        self._world = World(
            outer=self.outer,
            gates=GateKeeper(self.outer, store, journal, clock.wall),
            tails=tails,
            store=store,
            workers=workers,
            prober=prober,
            journal=journal,
            words=Words(workers),
            clock=clock,
            tick_s=tick_s,
        )
        self._holds = Holds(self._world)

    # ------------------------------------------------------------ start, reload, end

    async def recover(self) -> None:
        """Take up what the last control process left. To be called once, before any wish."""
        world = self._world
        rows = await world.store(Database.services)
        run = world.workers.run
        plan = recovery.plan(
            self._services,
            rows,
            {row.slot: world.workers.word(row.slot) for row in rows if row.name in self._services},
            await world.store(Database.all_under_way),
            restarted=await world.store(Database.last_run) != run,
        )
        await world.store(Database.raise_epoch, plan.epoch_least)
        for order in plan.words:
            row = order.row
            world.workers.set_word(row.slot, row.held, row.second_weight, row.epoch)
        slots = {row.name: row.slot for row in rows}
        for found in plan.switchovers:
            await self._take_up(found, slots[found.switchover.service])
        await world.store(Database.set_last_run, run)
        for row in rows:
            if row.held and row.name in self._services:
                self._holds.take_up(row, self._services[row.name].hold.timeout_s)

    async def _take_up(
        self, found: recovery.Resume | recovery.TurnBack | recovery.Orphan, slot: int
    ) -> None:
        value = found.switchover
        carrier = self._carriers[value.service] = self._carrier(value, slot)
        match found:
            case recovery.Resume():
                action = "resumed"
                carrier.begin()
            case recovery.TurnBack(_, reason):
                action = f"turned back: {reason}"
                carrier.begin(turn_back=reason)
            case recovery.Orphan(_, reason):
                action = f"given up: {reason}"
                await carrier.apply(switchover.GaveUp(carrier.now(), reason))
        told = events.Recovered(
            service=value.service, switchover=value.id, state=value.state, action=action
        )
        await self._world.journal.note(Note(events=(told,)))

    def configure(self, configuration: Configuration) -> None:
        """Use a new configuration; its services are in the store already.

        What is under way keeps its steps and takes its limits from the new one. Raises
        SwitchoverUnderWay when it has no more the service of one.
        """
        services = {service.name: service for service in configuration.services}
        for name, carrier in self._carriers.items():
            if not carrier.value.final and name not in services:
                raise SwitchoverUnderWay(name, carrier.value.id)
        self._services = services
        self._configuration = configuration
        self.outer.configure(configuration)
        self._world.words.rows.clear()  # an upstream may have another name now

    async def trim(self) -> None:
        """Let old history go, as the settings say; to be called now and then."""
        state = self._configuration.state
        await self._world.store(
            Database.trim,
            state.switchovers_kept,
            state.audit_kept,
            state.refusals_kept,
            state.events_kept,
        )

    async def close(self) -> None:
        """End all tasks; what is under way is taken up again at the next start."""
        await self._holds.close()
        for carrier in self._carriers.values():
            await carrier.stop()
        await self._world.words.close()
        await self.outer.close()

    # ------------------------------------------------------------ reading

    async def service(self, name: str) -> ServiceView:
        """A service as it is now. Raises UnknownService."""
        service = self._service(name)
        row = await self._row(service)
        in_flight = (self._in_flight(row, 0), self._in_flight(row, 1))
        return ServiceView(row, await self._world.store(Database.under_way, name), in_flight)

    async def get(self, id: str) -> Switchover:
        """Raises UnknownSwitchover."""
        found = await self._world.store(Database.switchover, id)
        if found is None:
            raise UnknownSwitchover(f"there is no switchover {id}; see turnout history")
        return found

    async def wait(self, id: str) -> Switchover:
        """Wait until a switchover has ended, and return it. Raises UnknownSwitchover."""
        return await self._until(id, lambda value: value.final)

    async def wait_acknowledged(self, id: str) -> Switchover:
        """Wait until every worker acts on a switchover's last weights, or it has ended."""
        return await self._until(id, lambda value: value.state is State.DRAINING)

    async def _until(self, id: str, reached: Callable[[Switchover], bool]) -> Switchover:
        for carrier in self._carriers.values():
            if carrier.value.id == id:
                return await carrier.until(reached)
        return await self.get(id)

    # ------------------------------------------------------------ moving weights

    async def start(
        self,
        service: str,
        to: str,
        author: Author,
        *,
        strategy: str = "",
        wait_healthy_s: float = 0.0,
        force: bool = False,
        dry_run: bool = False,
        revision: int | None = None,
    ) -> Switchover:
        """Move all of a service's traffic to the upstream `to`.

        The answer is under way; or, with an empty id, what would be stored (`dry_run`) or
        `completed` because nothing was to be done. Raises SwitchoverUnderWay, Unhealthy,
        UnknownService, UnknownUpstream, UnknownStrategy, RevisionIsStale.
        """
        found = self._service(service)
        row = self._free_now(found, revision) or await self._free(found, revision)
        if to not in found.names:
            raise UnknownUpstream(f"{service} has no upstream {to}; it has {_and(found.names)}")
        name = strategy or found.switchover.default
        steps = found.switchover.strategy(name)
        if steps is None:
            known = [known.name for known in found.switchover.strategies]
            raise UnknownStrategy(f"{service} has no strategy {name}; it has {_and(known)}")
        new = wishes.to_upstream(
            found, row, steps, to, Wish(author, self._world.now(), force, wait_healthy_s)
        )
        return await self._start(found, row, new, author, dry_run, wait_healthy_s, revision)

    async def set_weights(
        self,
        service: str,
        weights: Mapping[str, Percentage],
        author: Author,
        *,
        force: bool = False,
        dry_run: bool = False,
        revision: int | None = None,
    ) -> Switchover:
        """Set a service's weights by hand: percentages by upstream, sum 100.

        Answers and raises as `start`; BadWeights instead of an unknown strategy.
        """
        found = self._service(service)
        try:
            wanted = Weights.of_percent(*found.names, weights).second_weight
        except ValueError as error:
            raise BadWeights(f"{service}: {error}") from None
        row = await self._free(found, revision)
        wish = Wish(author, self._world.now(), force)
        new = wishes.to_weight(found, row, BY_HAND, wanted, wish)
        return await self._start(found, row, new, author, dry_run, 0.0, revision)

    async def rollback(
        self,
        service: str,
        author: Author,
        *,
        force: bool = False,
        revision: int | None = None,
    ) -> Switchover:
        """Back to where the traffic was before: the one under way, or the last that moved any.

        Raises NothingToRollBack, Unhealthy, UnknownService, IllegalVerb, RevisionIsStale.
        """
        found = self._service(service)
        carrier = self._under_way(service)
        if carrier is not None:
            event = switchover.Rollback(carrier.now(), author.who, author.reason, force)
            ask = Ask(author, "rollback", service_revision=revision)
            return await self._turn(carrier, event, ask, force)
        row = await self._free(found, revision)
        last = await self._world.store(Database.last_moved, service)
        wanted = None if last is None else wishes.weights_before(last, row)
        undone = ""
        if last is not None and last.first == row.first and wishes.unfinished_way_back(last):
            # Said again it is gone to its end, not forward again.
            assert last.outer is not None
            wanted, undone = last.steps[-1], last.outer.restores
        # One that left the proxy where it was may have moved what is beyond it.
        beyond = found.outer is not None and last is not None and last.outer is not None
        if last is None or wanted is None or (wanted == row.second_weight and not beyond):
            raise NothingToRollBack(f"{service}: no switchover has left its weights moved")
        wish = Wish(author, self._world.now(), force)
        new = wishes.to_weight(found, row, ROLLBACK, wanted, wish)
        undone = undone or (last.id if beyond else "")
        return await self._start(found, row, new, author, False, 0.0, revision, undone)

    async def _start(
        self,
        service: Service,
        row: ServiceRow,
        new: Switchover,
        author: Author,
        dry_run: bool,
        wait_healthy_s: float,
        revision: int | None,
        undone: str = "",
    ) -> Switchover:
        """Judge a new switchover, store it and begin; `undone` is the one that it takes back."""
        world = self._world
        new = await self._with_beyond(service, new, undone)
        still = all(step == row.second_weight for step in new.steps)
        if still and new.outer is None:
            old = without_weight(row.second_weight)
            if old is None or not self._in_flight(row, old):
                return replace(new, state=State.COMPLETED)
        if not still:
            health = world.prober.upstream(new.service, new.to_upstream)
            match decider.may_start(health, wait_healthy_s, bool(new.forced_by)):
                case decider.Refuse(reason):
                    raise Unhealthy(
                        f"{reason}; wait for it (--wait-healthy 60s), or force it (--force)",
                        new.to_upstream,
                    )
        if dry_run:
            return new
        audit = Audit(author, f"switchover.start {new.strategy}", new.service, wishes.moves(new))
        return await whole(self._begin(new, row.slot, audit, revision))

    async def _with_beyond(self, service: Service, new: Switchover, undone: str) -> Switchover:
        """The switchover with what it moves beyond the proxy, and its gates. Raises OuterUnusable
        when that could not be asked, whatever it would say."""
        # Gates are for going forward: who must go back, goes.
        forward = new.strategy != ROLLBACK
        gates = tuple(gate.name for gate in service.gates) if forward else ()
        if service.outer is None:
            return replace(new, gates=gates) if gates else new
        outer, mover = service.outer, self.outer.of(service.name)
        assert mover is not None, "the configuration in force has one"
        try:
            await mover.router()
        except OuterError as error:
            raise OuterUnusable(f"{service.name}: {error}") from None
        # The way back, and what is forced: the proxy first, as it needs an instant, and waiting for
        # nothing that is beyond it; and at the end of the way back not for who still comes.
        back = not forward or bool(new.forced_by)
        part = OuterPart(
            outer.kind,
            OuterOrder.INNER_FIRST if back else outer.order,
            tail=forward and outer.tail is not None,
            back=back,
            restores=undone,
        )
        return replace(new, gates=gates, outer=part)

    async def beyond(self, value: Switchover) -> dict[str, Any] | None:
        """How far a switchover under way is beyond the proxy; None: nothing is moved there, or it
        has ended, and its receipt says it."""
        carrier = self._carriers.get(value.service)
        if value.outer is None or value.final or carrier is None or carrier.value.id != value.id:
            return None
        return await carrier.beyond()

    def doing(self, value: Switchover) -> str:
        """What a switchover waits for beyond the proxy, or at which gate, in words; empty: neither."""
        if value.final:
            return ""
        mover = self.outer.of(value.service) if value.outer is not None else None
        beyond = f"{mover.outer.kind}: {mover.doing}" if mover is not None and mover.doing else ""
        return beyond or self._world.gates.doing.get(value.id, "")

    async def preview(self, new: Switchover) -> dict[str, Any] | None:
        """What a switchover that was not begun (`dry_run`) would do beyond the proxy.

        Reads the outer system, and changes nothing; None: the service has none. Raises
        OuterUnusable.
        """
        mover = self.outer.of(new.service)
        if new.outer is None or mover is None:
            return None
        try:
            return await preview(mover, new.steps)
        except OuterError as error:
            raise OuterUnusable(f"{new.service}: {mover.outer.kind}: {error}") from None

    async def _begin(
        self, new: Switchover, slot: int, audit: Audit, revision: int | None
    ) -> Switchover:
        carrier = self._carrier(new, slot)

        def known() -> None:
            self._carriers[new.service] = carrier

        try:
            await carrier.start(audit, revision, known)
        except UnderWay as error:
            raise SwitchoverUnderWay(error.service, error.id) from None
        except StaleRevision as error:
            self._world.words.rows.pop(new.service, None)
            raise stale(error) from None
        carrier.begin()
        return carrier.value

    # ------------------------------------------------------------ steering

    async def pause(self, id: str, author: Author, *, revision: int | None = None) -> Switchover:
        """Keep the weights where they are.

        Raises UnknownSwitchover, IllegalVerb, RevisionIsStale; so do the others.
        """
        return await self._steer(
            id, lambda at: switchover.Pause(at, author.who), Ask(author, "pause", revision)
        )

    async def resume(self, id: str, author: Author, *, revision: int | None = None) -> Switchover:
        """Go on after `pause`."""
        return await self._steer(
            id, lambda at: switchover.Resume(at, author.who), Ask(author, "resume", revision)
        )

    async def approve(self, id: str, author: Author, *, revision: int | None = None) -> Switchover:
        """Allow the next step of a switchover that waits for approval."""
        return await self._steer(
            id, lambda at: switchover.Approve(at, author.who), Ask(author, "approve", revision)
        )

    async def abort(self, id: str, author: Author, *, revision: int | None = None) -> Switchover:
        """End it and restore the weights before it. Raises Unhealthy too: that may not do."""
        return await self._steer(
            id,
            lambda at: switchover.Abort(at, author.who, author.reason),
            Ask(author, "abort", revision),
        )

    async def _steer(
        self, id: str, made: Callable[[float], switchover.Event], ask: Ask
    ) -> Switchover:
        for carrier in self._carriers.values():
            if carrier.value.id == id and not carrier.value.final:
                event = made(carrier.now())
                if isinstance(event, switchover.Abort):
                    return await self._turn(carrier, event, ask, force=False)
                return await self._apply(carrier, event, ask)
        value = await self.get(id)
        ask.require(value)
        raise IllegalVerb(f"switchover {id} has ended: {value.state}", id, value.state)

    async def _turn(
        self, carrier: Carrier, event: switchover.Event, ask: Ask, force: bool
    ) -> Switchover:
        """Abort or roll back what is under way, if that gives no weight to the unhealthy."""
        if (carrier.value.state, type(event)) in switchover.MOVES:
            back = carrier.back()
            match decider.may_return(back, force):
                case decider.Refuse(reason) | decider.Wait(reason):
                    raise Unhealthy(
                        f"{ask.verb} would give weight back: {reason};"
                        " turnout rollback --force --reason … does it nevertheless",
                        back[0].name,
                    )
        return await self._apply(carrier, event, ask)

    async def _apply(self, carrier: Carrier, event: switchover.Event, ask: Ask) -> Switchover:
        try:
            return await carrier.apply(event, ask=ask)
        except switchover.IllegalMove as error:
            id, state = error.switchover.id, error.switchover.state
            raise IllegalVerb(f"{ask.verb}: {error}", id, state) from None

    # ------------------------------------------------------------ holding

    async def hold(
        self, service: str, author: Author, *, revision: int | None = None
    ) -> ServiceRow:
        """Keep new requests waiting, for `hold.timeout` at most; again: from now on.

        Raises UnknownService, RevisionIsStale.
        """
        timeout_s = self._service(service).hold.timeout_s
        return await self._holds.hold(service, timeout_s, author, revision)

    async def release(
        self, service: str, author: Author, *, revision: int | None = None
    ) -> ServiceRow:
        """Let held requests go; nothing if none are held. Raises as `hold`."""
        row = await self._row(self._service(service))
        if not row.held:
            await self._require(service, revision)
            return row
        return await self._holds.release(service, author, revision)

    # ------------------------------------------------------------ servers

    async def set_servers(
        self,
        service: str,
        upstream: str,
        servers: Sequence[str],
        author: Author,
        *,
        revision: int | None = None,
    ) -> ServiceRow:
        """Use these servers for an upstream from now on, instead of the file's.

        Raises BadServers, ServerNeeded, ServersDiscovered, TableRefused, UnknownService,
        UnknownUpstream, RevisionIsStale.
        """
        found = self._service(service)
        if upstream not in found.names:
            names = _and(found.names)
            raise UnknownUpstream(f"{service} has no upstream {upstream}; it has {names}")
        discover = found.upstreams[found.names.index(upstream)].discover
        if discover is not None:
            raise ServersDiscovered(
                f"{service}/{upstream} has its servers from {discover.kind}: change them there, or"
                " take discover out of the file and reload"
            )
        addresses = self._addresses(servers)
        row = await self._row(found)
        before = row.servers.get(upstream)
        told = events.ServersChanged(
            service=service,
            upstream=upstream,
            servers=addresses,
            who=author.who,
            reason=author.reason,
        )
        detail = f"{upstream}={','.join(addresses)}"
        note = Note(Audit(author, "servers.set", service, detail), (told,))
        return await whole(self._set_servers(service, upstream, addresses, before, note, revision))

    async def _set_servers(
        self,
        service: str,
        upstream: str,
        servers: Sequence[str],
        before: Sequence[str] | None,
        note: Note,
        revision: int | None,
    ) -> ServiceRow:
        world = self._world
        try:
            row = await world.store(
                Database.set_servers, service, upstream, servers, world.now(), note, revision
            )
        except StaleRevision as error:
            raise stale(error) from None
        except UpstreamHasWeight as error:
            raise ServerNeeded(str(error)) from None
        world.journal.told(note)
        try:
            await self._tables.publish(f"servers of {service} {upstream}")
        except TableRefused as error:
            undone = Audit(Author("turnout"), "servers.restore", service, upstream, str(error))
            await world.store(
                Database.set_servers, service, upstream, before, world.now(), Note(undone)
            )
            raise
        return row

    def _addresses(self, servers: Sequence[str]) -> tuple[str, ...]:
        limit = self._configuration.limits.servers
        if len(servers) > limit:
            raise BadServers(f"{len(servers)} servers; limits.servers allows {limit}")
        try:
            addresses = tuple(str(Address.parse(server)) for server in servers)
        except ValueError as error:
            raise BadServers(str(error)) from None
        if len(set(addresses)) != len(addresses):
            raise BadServers("a server is named twice")
        return addresses

    # ------------------------------------------------------------ parts

    def _service(self, name: str) -> Service:
        found = self._services.get(name)
        if found is None:
            known = _and(sorted(self._services))
            raise UnknownService(f"there is no service {name}; there is {known}")
        return found

    async def _row(self, service: Service) -> ServiceRow:
        row = await self._world.store(Database.service, service.name)
        assert row is not None, f"service {service.name} was not put in the store"
        return row

    async def _free(self, service: Service, revision: int | None) -> ServiceRow:
        """The service's row, if nothing of it is under way; that is checked first."""
        try:
            return await self._world.store(Database.free, service.name, revision)
        except UnderWay as error:
            raise SwitchoverUnderWay(error.service, error.id) from None
        except StaleRevision as error:
            raise stale(error) from None

    def _free_now(self, service: Service, revision: int | None) -> ServiceRow | None:
        """As `_free`, from memory, for who starts a switchover: its transaction looks again.

        None when only the store knows. Raises SwitchoverUnderWay.
        """
        running = self._under_way(service.name)
        if running is not None:
            raise SwitchoverUnderWay(service.name, running.value.id)
        return self._world.words.rows.get(service.name) if revision is None else None

    async def _require(self, service: str, revision: int | None) -> None:
        try:
            await self._world.store(Database.require_revision, service, revision)
        except StaleRevision as error:
            raise stale(error) from None

    def _under_way(self, service: str) -> Carrier | None:
        carrier = self._carriers.get(service)
        return None if carrier is None or carrier.value.final else carrier

    def _carrier(self, value: Switchover, slot: int) -> Carrier:
        name = value.service
        return Carrier(self._world, value, slot, lambda: self._services[name])

    def _in_flight(self, row: ServiceRow, upstream: int) -> int:
        return sum(self._world.workers.in_flight(row.slot, upstream).values())


def _and(names: Sequence[str]) -> str:
    return " and ".join(names) if names else "none"
