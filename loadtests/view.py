"""What a person sees: a line a second or a live picture while it runs, a table at the end."""

import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from loadtests.checker import Finding
from loadtests.ledgers import UPSTREAMS, Change, Got, Ledgers, Line, Sent, decode

RECENT_S = 2.0
FINDINGS_SHOWN = 40
STYLES = {"blue": "blue", "green": "green"}


@dataclass(slots=True)
class Tail:
    """Reads a growing ledger, a part at a time."""

    path: Path
    _offset: int = 0
    _rest: bytes = b""

    def more(self) -> list[Line]:
        """The lines that have come since."""
        with self.path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [decode(line) for line in lines]


@dataclass(slots=True)
class Progress:
    """What is known while it runs, from the clients' ledger."""

    sent: int = 0
    ended: int = 0
    failed: int = 0
    began: dict[str, float] = field(default_factory=dict)
    recent: deque[tuple[float, str, float]] = field(default_factory=deque)
    """(Ended, upstream, seconds) of the last moments."""

    def take(self, lines: Iterable[Line]) -> None:
        for line in lines:
            if isinstance(line, Sent):
                self.sent += 1
                self.began[line.id] = line.began_s
            elif isinstance(line, Got):
                self.ended += 1
                self.failed += bool(line.error or line.status not in (101, 200))
                took_s = line.ended_s - self.began.pop(line.id, line.ended_s)
                self.recent.append((line.ended_s, line.upstream, took_s))
        horizon_s = time.monotonic() - RECENT_S
        while self.recent and self.recent[0][0] < horizon_s:
            self.recent.popleft()

    def shares(self) -> dict[str, float]:
        """Percent of the last moments' requests, by upstream."""
        counts = Counter(upstream for _, upstream, _ in self.recent)
        return {name: 100 * counts[name] / max(1, len(self.recent)) for name in UPSTREAMS}

    def line(self, changes: Sequence[Change], doing: str, left_s: float) -> str:
        """The state in one line."""
        shares = "  ".join(f"{name} {share:3.0f} %" for name, share in self.shares().items())
        doing = doing or "all is quiet"
        return (
            f"{left_s:4.0f} s left  {len(self.recent) / RECENT_S:5.0f} requests/s  {shares}  "
            f"{self.sent} sent  {self.failed} failed  {len(changes) - 1} changes  {doing}"
        )

    def picture(self, changes: Sequence[Change], doing: str, left_s: float) -> RenderableType:
        """The same for a terminal."""
        bars = Table.grid(padding=(0, 1))
        for name, share in self.shares().items():
            bar = Text("█" * round(share * 0.4), style=STYLES[name]).append(
                "·" * (40 - round(share * 0.4))
            )
            bars.add_row(f"{name:>6}", bar, f"{share:5.1f} %")
        done = [
            Text(f"✓ {change.what}", "red" if change.error else "green") for change in changes[-6:]
        ]
        return Group(Text(self.line(changes, doing, left_s), "bold"), bars, *done)


def quantile_ms(took_s: Sequence[float], fraction: float) -> float:
    """Of sorted durations; 0 without any."""
    return took_s[min(int(len(took_s) * fraction), len(took_s) - 1)] * 1000 if took_s else 0.0


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of request."""

    kind: str
    sent: int
    failed: int
    per_s: float
    p50_ms: float
    p99_ms: float
    max_ms: float


def rows(ledgers: Ledgers) -> list[Row]:
    """A row a kind, and one for all."""
    got = {one.id: one for one in ledgers.got}
    kinds: dict[str, list[Sent]] = {}
    for one in ledgers.sent:
        kinds.setdefault(one.kind, []).append(one)
    if not ledgers.got:
        return []
    seconds = max(one.ended_s for one in ledgers.got) - min(one.began_s for one in ledgers.sent)
    found = []
    for kind, those in [*sorted(kinds.items()), ("all", list(ledgers.sent))]:
        ends = [(one, got.get(one.id)) for one in those]
        took_s = sorted(end.ended_s - one.began_s for one, end in ends if end)
        good = sum(1 for _, end in ends if end and not end.error and end.status in (101, 200))
        quantiles = (quantile_ms(took_s, fraction) for fraction in (0.5, 0.99, 1.0))
        found.append(Row(kind, len(those), len(those) - good, len(those) / seconds, *quantiles))
    return found


def summary(ledgers: Ledgers, findings: Sequence[Finding], seed: int) -> dict[str, Any]:
    """The result as data."""
    faults = Counter(finding.fault.value for finding in findings)
    return {
        "good": not findings,
        "seed": seed,
        "requests": {
            row.kind: {
                "sent": row.sent, "failed": row.failed, "per_s": round(row.per_s, 1),
                "p50_ms": round(row.p50_ms, 2), "p99_ms": round(row.p99_ms, 2),
                "max_ms": round(row.max_ms, 2),
            }
            for row in rows(ledgers)
        },
        "changes": dict(Counter(_sort(change) for change in ledgers.changes[1:])),
        "receipts": len(ledgers.receipts),
        "received": dict(Counter(arrival.server for arrival in ledgers.arrived)),
        "accepted": ledgers.counters.accepted,
        "faults": dict(faults),
        "findings": [str(finding) for finding in findings],
    }  # fmt: skip


def _sort(change: Change) -> str:
    return change.what.partition(" to ")[0]


def show(console: Console, ledgers: Ledgers, findings: Sequence[Finding], seed: int) -> None:
    """The table, the three ledgers in a line each, and what was found."""
    table = Table(box=None, pad_edge=False)
    table.add_column("KIND")
    for name in ("SENT", "FAILED", "PER S", "P50", "P99", "MAX"):
        table.add_column(name, justify="right")
    for row in rows(ledgers):
        times = (f"{ms:.1f} ms" for ms in (row.p50_ms, row.p99_ms, row.max_ms))
        style = "red" if row.failed else "bold" if row.kind == "all" else ""
        table.add_row(
            row.kind, str(row.sent), str(row.failed), f"{row.per_s:.0f}", *times, style=style
        )
    console.print(table)
    say = partial(console.print, soft_wrap=True, highlight=False)
    data = summary(ledgers, (), seed)
    changes = ", ".join(f"{count} {what}" for what, count in data["changes"].items())
    servers = ", ".join(
        f"{count} by {server}" for server, count in sorted(data["received"].items())
    )
    say(f"clients:   {len(ledgers.sent)} sent, {len(ledgers.got)} ended")
    say(f"upstreams: {len(ledgers.arrived)} received: {servers}")
    say(
        f"proxy:     {ledgers.counters.accepted} accepted, {ledgers.counters.in_flight} in flight; "
        f"{len(ledgers.receipts)} receipts"
    )
    say(f"changes:   {len(ledgers.changes) - 1}: {changes}")
    for finding in findings[:FINDINGS_SHOWN]:
        say(str(finding), style="red", markup=False)
    if len(findings) > FINDINGS_SHOWN:
        console.print(f"and {len(findings) - FINDINGS_SHOWN} more", style="red")
    faults = Counter(finding.fault.value for finding in findings)
    verdict = ", ".join(f"{faults[name]} {name}" for name in ("lost", "doubled", "misrouted"))
    other = sum(faults.values()) - faults["lost"] - faults["doubled"] - faults["misrouted"]
    say(
        f"{len(ledgers.sent)} requests, {verdict}, {other} other findings (seed {seed})",
        style="bold red" if findings else "bold green",
    )
