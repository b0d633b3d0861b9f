"""What Turnout remembers, as transactions: each method is one, done whole or not at all.

Synchronous: the compiler calls it as it is, the control process through `store.Store`. A
write that names the revision it was decided on is refused when the row has moved on.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from turnout.config.weights import WHOLE, Weights
from turnout.control.discovered_ledger import DiscoveredLedger
from turnout.control.outer_ledger import LEFT_MOVED_BEYOND, OuterLedger
from turnout.control.rows import (
    Audit,
    Author,
    Decision,
    InForce,
    Note,
    ServiceNames,
    ServiceRow,
    StaleRevision,
    StepRow,
    UnderWay,
    UpstreamHasWeight,
    UpstreamsSwapped,
)
from turnout.control.state import Switchover, from_document, to_document


class Database(OuterLedger, DiscoveredLedger):
    """An open store. Not for two threads at once; two processes are fine."""

    __slots__ = ()

    # ------------------------------------------------------------ services

    def ensure_services(
        self, wanted: Iterable[ServiceNames], at: float, *, live: bool
    ) -> list[ServiceRow]:
        """Give each service of the configuration a slot and its first weights, if it is new.

        With `live` workers are counting upstreams by the stored order, so a file that swaps
        them raises UpstreamsSwapped; without, the weights are turned round with the names.
        Returns all that the store knows, also what the configuration no longer has.
        """
        with self._transaction():
            for names in wanted:
                self._ensure(names, at, live)
        return self.services()

    def _ensure(self, names: ServiceNames, at: float, live: bool) -> None:
        row = self.service(names.name)
        if row is None:
            self._run(
                "INSERT INTO services SELECT coalesce(max(slot), 0) + 1, ?, ?, ?, ?, 0, 0, NULL,"
                " '{}', ?, ? FROM services",
                *(names.name, names.first, names.second, names.initial_second_weight),
                *(at, self._next("revision")),
            )
            return
        if (row.first, row.second) != (names.first, names.second):
            running = self.under_way(names.name)
            if running is not None:
                started = "" if live else "; start turnout with these to end it"
                raise UpstreamsSwapped(
                    f"services.{names.name}.upstreams: keep {row.first} and {row.second}, in that"
                    f" order, until switchover {running.id} has ended"
                    f" (turnout wait, turnout abort){started}"
                )
        swapped = row.second == names.first or row.first == names.second
        if swapped and live:
            raise UpstreamsSwapped(
                f"services.{names.name}.upstreams: {names.first} and {names.second} changed"
                f" places; keep {row.first} first and {row.second} second, or restart turnout"
            )
        if (row.first, row.second) != (names.first, names.second):
            self._run(
                "UPDATE services SET first = ?, second = ?, second_weight = ?, revision = ?"
                " WHERE slot = ?",
                *(names.first, names.second),
                WHOLE - row.second_weight if swapped else row.second_weight,
                *(self._next("revision"), row.slot),
            )
        self._run("UPDATE services SET last_seen_at = ? WHERE slot = ?", at, row.slot)

    def misfit(self, there: Iterable[InForce]) -> str:
        """Why this store cannot be that of the running workers; empty when it can be.

        They count a service in a slot for as long as they run: with another store's slots its
        decisions would reach another service.
        """
        rows = self.services()
        slots = {row.slot: row.name for row in rows}
        known = {row.name: row for row in rows}
        for service in there:
            row = known.get(service.name)
            if slots.get(service.slot, service.name) != service.name or (
                row is not None and row.slot != service.slot
            ):
                return (
                    f"{self.path} is of other workers: service {service.name} has slot"
                    f" {service.slot} with those that run; restore the copy of this Turnout, or"
                    " restart turnout to go on with this one"
                )
            if row is not None and (row.first == service.second or row.second == service.first):
                return (
                    f"{self.path} has {row.first} first and {row.second} second of {row.name}, and"
                    " the workers that run have it otherwise: restart turnout"
                )
        return ""

    def adopt(self, there: Iterable[InForce], table: int, at: float) -> list[ServiceRow]:
        """Take over what is in force where this store is behind it, and return that.

        It is, when it is an older copy, or was made anew: a routing word comes behind its
        decision, so one that is ahead is of a decision that was lost. The traffic stays where
        it is; a switchover under way in the copy is over, as nobody knows how it went on.
        `table` is the number of the table in force.
        """
        rows = {row.name: row for row in self.services()}
        ahead = [
            service
            for service in there
            if (row := rows.get(service.name)) is None or service.epoch > row.epoch
        ]
        if not ahead:
            return []
        with self._transaction():
            for service in ahead:
                self._adopt(service, rows.get(service.name), at)
            self._run(
                "UPDATE meta SET epoch = max(epoch, ?), table_number = max(table_number, ?)",
                *(max(service.epoch for service in ahead), table),
            )
        return [self._known(service.name) for service in ahead]

    def _adopt(self, service: InForce, row: ServiceRow | None, at: float) -> None:
        if row is None:
            taken = self._maybe("SELECT 1 FROM services WHERE slot = ?", service.slot)
            highest = self._first("SELECT coalesce(max(slot), 0) FROM services")[0]
            self._run(
                "INSERT INTO services VALUES (?, ?, ?, ?, 0, 0, 0, NULL, '{}', ?, 0)",
                *(highest + 1 if taken else service.slot, service.name),
                *(service.first, service.second, at),
            )
        self._run(
            "UPDATE services SET first = ?, second = ?, second_weight = ?, held = ?, epoch = ?,"
            " hold_until = NULL, revision = ? WHERE name = ?",
            *(service.first, service.second, service.second_weight, int(service.held)),
            *(service.epoch, self._next("revision"), service.name),
        )
        running = self.under_way(service.name)
        if running is not None:
            told = replace(running, overtaken="the store is older than what is in force")
            self._run("UPDATE switchovers SET document = ? WHERE id = ?", _dump(told), running.id)
        weights = Weights(service.first, service.second, service.second_weight)
        entry = Audit(Author("turnout"), "store.adopt", service.name, str(weights))
        self._note(Note(entry), at)

    def services(self) -> list[ServiceRow]:
        """All that the store knows, also those that the configuration no longer has."""
        return [_service(row) for row in self._all(f"{_SERVICES} ORDER BY slot")]

    def service(self, name: str) -> ServiceRow | None:
        row = self._maybe(f"{_SERVICES} WHERE name = ?", name)
        return None if row is None else _service(row)

    def hold(
        self,
        name: str,
        held: bool,
        until: float | None,
        at: float,
        note: Note,
        revision: int | None = None,
    ) -> ServiceRow:
        """Hold or release a service, under a new epoch that workers can acknowledge.

        Raises StaleRevision when the service has not `revision`.
        """
        with self._transaction():
            self.require_revision(name, revision)
            self._run(
                "UPDATE services SET held = ?, hold_until = ?, epoch = ?, revision = ?"
                " WHERE name = ?",
                *(int(held), until, self._next("epoch"), self._next("revision"), name),
            )
            self._note(note, at)
        return self._known(name)

    def set_servers(
        self,
        name: str,
        upstream: str,
        servers: Sequence[str] | None,
        at: float,
        note: Note,
        revision: int | None = None,
    ) -> ServiceRow:
        """Keep servers instead of the file's; None: the file's again.

        Raises StaleRevision when the service has not `revision`, UpstreamHasWeight when an
        upstream with weight would have no server left.
        """
        with self._transaction():
            self.require_revision(name, revision)
            service = self._known(name)
            weight = service.weights.percentages()[upstream]
            if servers is not None and not servers and weight:
                raise UpstreamHasWeight(
                    f"{upstream} of {name} has {weight:g} % of the traffic and would have no"
                    " server left: name one, or move the traffic first"
                )
            kept = dict(service.servers)
            kept.pop(upstream, None)
            if servers is not None:
                kept[upstream] = tuple(servers)
            self._run(
                "UPDATE services SET servers = ?, revision = ? WHERE name = ?",
                *(json.dumps(kept), self._next("revision"), name),
            )
            self._note(note, at)
        return self._known(name)

    def require_revision(self, service: str, expected: int | None) -> None:
        """Raise StaleRevision if the service has not the expected revision; None: any."""
        found = self._known(service).revision
        if expected is not None and found != expected:
            raise StaleRevision(f"service {service}", expected, found)

    def free(self, name: str, revision: int | None) -> ServiceRow:
        """The service's row, if nothing of it is under way; that is looked at first.

        Raises UnderWay, and StaleRevision when the service has not `revision`.
        """
        running = self.under_way(name)
        if running is not None:
            raise UnderWay(name, running.id)
        self.require_revision(name, revision)
        return self._known(name)

    # ------------------------------------------------------------ switchovers: writing

    def start_switchover(
        self,
        new: Switchover,
        at: float,
        describe: Callable[[Switchover], Note],
        service_revision: int | None = None,
    ) -> Switchover:
        """Store a new switchover under an id of its own, and return it as stored.

        Raises UnderWay while another of the service is, StaleRevision when the service has
        not `service_revision`.
        """
        with self._transaction():
            return self._start(new, at, describe, service_revision)

    def start_with_weight(
        self,
        new: Switchover,
        baseline: Mapping[str, Any],
        at: float,
        describe: Callable[[Switchover], Note],
        describe_weight: Callable[[ServiceRow, str], Note],
        service_revision: int | None = None,
    ) -> tuple[Switchover, Decision]:
        """As `start_switchover` for one that is ready to shift, with its first step decided.

        `baseline` are the counters before it. One wait for the disk instead of one for each
        state that a switchover goes through at once. Raises as `start_switchover`.
        """
        with self._transaction():
            stored = self._start(new, at, describe, service_revision)
            self._keep_baseline(stored.id, baseline)
            decision = self._decide(
                stored,
                stored.step_index,
                stored.second_weight,
                at,
                lambda row: describe_weight(row, stored.id),
            )
        return stored, decision

    def _start(
        self,
        new: Switchover,
        at: float,
        describe: Callable[[Switchover], Note],
        service_revision: int | None,
    ) -> Switchover:
        service = self.free(new.service, service_revision)
        if service.second_weight != new.weights_before:
            # Another began and ended since the caller read it.
            raise StaleRevision(f"service {new.service}", new.revision, service.revision)
        stored = replace(new, id=self._next_id(at), revision=self._next("revision"))
        self._run(
            "INSERT INTO switchovers VALUES (?, ?, ?, ?, ?, ?, ?, '{}', NULL, ?)",
            *(stored.id, stored.service, stored.state, int(stored.final)),
            *(stored.weights_before, stored.second_weight),
            *(_dump(stored), stored.revision),
        )
        self._touch(stored)
        self._note(describe(stored), at, stored.id)
        return stored

    def save_switchover(
        self,
        changed: Switchover,
        at: float,
        note: Note,
        receipt: Callable[[Switchover], Mapping[str, Any]] | None = None,
        service_revision: int | None = None,
    ) -> Switchover:
        """Store a switchover that was read at `changed.revision`, and return it as stored.

        A final state takes the weight that the service has, whatever was wanted, and goes with
        its receipt in the same transaction. Raises StaleRevision, also when the service has
        not `service_revision`.
        """
        with self._transaction():
            self._require(changed)
            self.require_revision(changed.service, service_revision)
            stored = replace(changed, revision=self._next("revision"))
            if stored.final:
                truth = self._known(stored.service).second_weight
                stored = replace(stored, second_weight=truth)
            self._run(
                "UPDATE switchovers SET state = ?, final = ?, second_weight = ?, document = ?,"
                " receipt = coalesce(?, receipt), revision = ? WHERE id = ?",
                *(stored.state, int(stored.final), stored.second_weight, _dump(stored)),
                None if receipt is None else json.dumps(receipt(stored)),
                *(stored.revision, stored.id),
            )
            self._touch(stored)
            self._note(note, at, stored.id)
        return stored

    def decide_weight(
        self,
        current: Switchover,
        step: int,
        second_weight: int,
        at: float,
        describe: Callable[[ServiceRow], Note],
        told_at: float | None = None,
    ) -> Decision:
        """Decide a step's weight: a new epoch, the service's weight and the step, at once.

        `at` is on the switchover's own scale; `told_at` by the wall clock, if that differs.

        Decided again for the same step, it is the same decision with the same epoch. Raises
        StaleRevision when the switchover has moved on since `current`.
        """
        with self._transaction():
            return self._decide(current, step, second_weight, at, describe, told_at)

    def _decide(
        self,
        current: Switchover,
        step: int,
        second_weight: int,
        at: float,
        describe: Callable[[ServiceRow], Note],
        told_at: float | None = None,
    ) -> Decision:
        self._require(current)
        before = self._maybe(
            "SELECT epoch FROM switchover_steps WHERE switchover = ? AND step = ?",
            *(current.id, step),
        )
        service = self._known(current.service)
        if before is not None and service.second_weight == second_weight:
            return Decision(service, again=True)
        epoch = self._next("epoch")
        self._run(
            "INSERT OR REPLACE INTO switchover_steps VALUES (?, ?, ?, ?, ?, NULL, '')",
            *(current.id, step, f"set second_weight {second_weight}", epoch, at),
        )
        self._run(
            "UPDATE services SET second_weight = ?, epoch = ?, revision = ? WHERE name = ?",
            *(second_weight, epoch, self._next("revision"), current.service),
        )
        decided = self._known(current.service)
        self._note(describe(decided), at if told_at is None else told_at)
        return Decision(decided, again=False)

    def step_done(self, id: str, step: int, at: float, outcome: str) -> None:
        """Record that a step's weight is acknowledged. A second time changes nothing."""
        with self._transaction():
            self._run(
                "UPDATE switchover_steps SET done_at = ?, outcome = ?"
                " WHERE switchover = ? AND step = ? AND done_at IS NULL",
                *(at, outcome, id, step),
            )

    def keep_in_flight(
        self, id: str, in_flight: Mapping[str, int], *, unless_known: bool = False
    ) -> None:
        """Keep what was in flight, by class, when the last weight was set."""
        with self._transaction():
            self._run(
                "UPDATE switchovers SET in_flight = ? WHERE id = ? AND (in_flight = '{}' OR NOT ?)",
                *(json.dumps(in_flight), id, unless_known),
            )

    def keep_baseline(self, id: str, document: Mapping[str, Any]) -> None:
        """Keep the counters at the window's beginning. The first stays, whatever comes later."""
        with self._transaction():
            self._keep_baseline(id, document)

    def _keep_baseline(self, id: str, document: Mapping[str, Any]) -> None:
        self._run("INSERT OR IGNORE INTO baselines VALUES (?, ?)", id, json.dumps(document))

    def keep_casualties(
        self, service: str, entries: Sequence[Mapping[str, Any]], at: float, note: Note
    ) -> None:
        """Keep the names of exchanges that were cut, for the receipt of what is under way."""
        with self._transaction():
            running = self.under_way(service)
            for entry in entries:
                self._run(
                    "INSERT INTO casualties (at, service, switchover, document)"
                    " VALUES (?, ?, ?, ?)",
                    *(at, service, running and running.id, json.dumps(entry)),
                )
            self._note(note, at)

    # ------------------------------------------------------------ switchovers: reading

    def switchover(self, id: str) -> Switchover | None:
        return self._switchover(f"{_SWITCHOVERS} WHERE id = ?", id)

    def under_way(self, service: str) -> Switchover | None:
        return self._switchover(f"{_SWITCHOVERS} WHERE service = ? AND final = 0", service)

    def all_under_way(self) -> list[Switchover]:
        """Of all services, the oldest first."""
        return [_read(row) for row in self._all(f"{_SWITCHOVERS} WHERE final = 0 ORDER BY id")]

    def switchovers(
        self, service: str = "", limit: int = 100, before: str = ""
    ) -> list[Switchover]:
        """The newest first, of one service or of all; `before` an id, for the next page."""
        rows = self._all(
            f"{_SWITCHOVERS} WHERE (? = '' OR service = ?) AND (? = '' OR id < ?)"
            " ORDER BY id DESC LIMIT ?",
            *(service, service, before, before, limit),
        )
        return [_read(row) for row in rows]

    def last_moved(self, service: str) -> Switchover | None:
        """The last switchover that moved a weight, in the proxy or beyond it, and left it moved; a
        rollback undoes it."""
        return self._switchover(
            f"{_SWITCHOVERS} WHERE service = ? AND state IN ('completed', 'failed')"
            f" AND (second_weight != weights_before OR {LEFT_MOVED_BEYOND}) ORDER BY id DESC LIMIT 1",
            service,
        )

    def steps(self, id: str) -> list[StepRow]:
        rows = self._all(
            "SELECT step, command, epoch, decided_at, done_at, outcome FROM switchover_steps"
            " WHERE switchover = ? ORDER BY step",
            id,
        )
        return [StepRow(*row) for row in rows]

    def baseline(self, id: str) -> dict[str, Any] | None:
        row = self._maybe("SELECT document FROM baselines WHERE switchover = ?", id)
        return None if row is None else json.loads(row[0])

    def in_flight_at_flip(self, id: str) -> dict[str, int]:
        row = self._maybe("SELECT in_flight FROM switchovers WHERE id = ?", id)
        return {} if row is None else json.loads(row[0])

    def casualties(self, id: str) -> list[dict[str, Any]]:
        """What was cut of the service while the switchover was under way, by name."""
        rows = self._all("SELECT document FROM casualties WHERE switchover = ? ORDER BY seq", id)
        return [json.loads(row[0]) for row in rows]

    def evidence(
        self, id: str
    ) -> tuple[dict[str, Any] | None, dict[str, int], list[dict[str, Any]]]:
        """What a receipt is made of beside the counters at its end: those at its beginning, what
        was in flight at the flip, what was cut. In one look, as a switch waits for each."""
        return self.baseline(id), self.in_flight_at_flip(id), self.casualties(id)

    def receipt(self, id: str) -> dict[str, Any] | None:
        """The receipt of a switchover that has ended."""
        row = self._maybe("SELECT receipt FROM switchovers WHERE id = ?", id)
        return None if row is None or row[0] is None else json.loads(row[0])

    def last_receipt(self, service: str = "") -> dict[str, Any] | None:
        """The newest receipt, of one service or of all."""
        row = self._maybe(
            "SELECT receipt FROM switchovers WHERE receipt IS NOT NULL"
            " AND (? = '' OR service = ?) ORDER BY id DESC LIMIT 1",
            *(service, service),
        )
        return None if row is None else json.loads(row[0])

    def ended(self) -> dict[tuple[str, str], int]:
        """(service, final state) -> how many ended so, also those that were trimmed since."""
        rows = self._all("SELECT service, state, count FROM ended")
        return {(service, state): count for service, state, count in rows}

    # ------------------------------------------------------------ what goes

    def trim(
        self, switchovers_kept: int, audit_kept: int, refusals_kept: int, events_kept: int
    ) -> None:
        """Let the oldest go. What is under way, and what a rollback would need, stays."""
        with self._transaction():
            for service in self.services():
                last = self.last_moved(service.name)
                self._run(
                    "DELETE FROM switchovers WHERE service = ? AND final = 1 AND id != ?"
                    " AND id NOT IN (SELECT id FROM switchovers WHERE service = ?"
                    " ORDER BY id DESC LIMIT ?)",
                    *(service.name, last.id if last else "", service.name, switchovers_kept),
                )
            self._run(
                "DELETE FROM casualties WHERE switchover IS NULL"
                " OR switchover NOT IN (SELECT id FROM switchovers)"
            )
            self._run("INSERT INTO trimming VALUES ('audit')")
            for refused, kept in ((0, audit_kept), (1, refusals_kept)):
                self._run(
                    "DELETE FROM audit WHERE refused = ? AND seq <= (SELECT seq FROM audit"
                    " WHERE refused = ? ORDER BY seq DESC LIMIT 1 OFFSET ?)",
                    *(refused, refused, kept),
                )
            self._run("DELETE FROM trimming")
            self._run(
                "DELETE FROM events WHERE seq <= (SELECT max(seq) FROM events) - ?", events_kept
            )

    # ------------------------------------------------------------ parts

    def _switchover(self, statement: str, *values: object) -> Switchover | None:
        row = self._maybe(statement, *values)
        return None if row is None else _read(row)

    def _known(self, name: str) -> ServiceRow:
        row = self.service(name)
        assert row is not None, f"service {name} is not in the store"
        return row

    def _require(self, current: Switchover) -> None:
        row = self._maybe("SELECT revision FROM switchovers WHERE id = ?", current.id)
        assert row is not None, f"switchover {current.id} is not in the store"
        if row[0] != current.revision:
            raise StaleRevision(f"switchover {current.id}", current.revision, row[0])

    def _touch(self, stored: Switchover) -> None:
        """A service's revision covers its switchover; its end is counted for ever."""
        self._run(
            "UPDATE services SET revision = ? WHERE name = ?", stored.revision, stored.service
        )
        if stored.final:
            self._run(
                "INSERT INTO ended VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET count = count + 1",
                *(stored.service, stored.state),
            )


_SERVICES: Final = (
    "SELECT slot, name, first, second, second_weight, epoch, held, hold_until, servers, revision,"
    " (SELECT json_group_object(upstream, json(discovered.servers)) FROM discovered"
    " WHERE service = name) FROM services"
)
_SWITCHOVERS: Final = "SELECT document, id, revision FROM switchovers"


def _service(row: tuple[Any, ...]) -> ServiceRow:
    slot, name, first, second, second_weight, epoch, held, hold_until, servers, *more = row
    revision, discovered = more
    return ServiceRow(
        *(slot, name, first, second, second_weight, epoch, bool(held), hold_until),
        _servers(servers),
        revision,
        _servers(discovered),
    )


def _servers(text: str) -> dict[str, tuple[str, ...]]:
    return {upstream: tuple(addresses) for upstream, addresses in json.loads(text).items()}


def _read(row: tuple[Any, ...]) -> Switchover:
    document, id, revision = row
    return replace(from_document(json.loads(document)), id=id, revision=revision)


def _dump(switchover: Switchover) -> str:
    return json.dumps(to_document(switchover))
