"""What the command line shows of who still comes by the old way: a curve for each way in."""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from turnout.control.cli_output import err, out, print_json, styled
from turnout.control.client import EXIT_FAILED, Client

Json = Mapping[str, Any]

LOOK_S: Final = 0.5
TELL_S: Final = 30.0
"""How often a wait says where it stands, where there is no terminal."""
HEIGHT: Final = 6
"""Rows of a curve."""
WIDTH_MAX: Final = 120
AXIS: Final = 9
"""Columns of the axis at the left."""
LINEAR_MAX: Final = 20.0
"""Beyond so many requests a minute the curve is logarithmic: what is asked of it is when the few
end, not how many the many were."""
_EIGHTHS: Final = " ▁▂▃▄▅▆▇█"


def follow(client: Client, path: str, *, watch: bool, wait: bool, as_json: bool) -> int:
    """Show a tail once, until it is over (`wait`), or for ever; the command's exit code.

    Interrupted while it waits it is not over: 130. Whoever begins to wait when `tail.timeout` has
    passed already waits for as long again.
    """
    about = "Nothing depends on this command: what it waits for goes on."
    now = client.call("GET", path)
    late_s = math.inf
    if now["timed_out"]:
        late_s = time.monotonic() + float(now["timeout_seconds"])

    def ended() -> bool:
        given_up = now["timed_out"] and (late_s == math.inf or time.monotonic() >= late_s)
        return wait and bool(now["over"] or given_up)

    if (watch or wait) and not as_json and out.is_terminal:
        with Live(tail_view(now, out.width), console=out, auto_refresh=False) as live:
            while not ended():
                time.sleep(LOOK_S)
                now = client.patiently(path, about)
                live.update(tail_view(now, out.width), refresh=True)
    else:
        told_s = -math.inf
        while (watch or wait) and not ended():
            if time.monotonic() >= told_s + TELL_S and not as_json:
                told_s = time.monotonic()
                err.print(verdict_line(now))
            time.sleep(LOOK_S)
            now = client.patiently(path, about)
        if as_json:
            print_json(now)
        else:
            out.print(tail_view(now, out.width))
    return EXIT_FAILED if wait and not now["over"] else 0


def tail_view(tail: Json, width: int) -> RenderableType:
    """The old side's curve, then the other's; the verdict; the networks that still come."""
    old = tail["old"]
    names = sorted(tail["upstreams"], key=lambda name: name != old)
    parts: list[RenderableType] = []
    for name in names:
        parts += way_in(tail, name, tail["upstreams"][name], width)
    parts.append(verdict_line(tail))
    if old is not None and tail["upstreams"][old]["networks"]:
        parts.append(_networks(tail["upstreams"][old]))
    return Group(*parts)


def verdict_line(tail: Json) -> Text:
    """Whether the old side may go, and why (not yet)."""
    old = tail["old"]
    if old is None:
        return Text(f"{tail['service']}: {tail['reason']}", style="yellow")
    if tail["over"]:
        return Text(f"{tail['service']}: {old} may go: {tail['reason']}", style="green")
    late = f", though {tail['timeout_seconds']:g} s (tail.timeout) have passed"
    return Text(
        f"{tail['service']}: {old} must not go yet{late if tail['timed_out'] else ''}: "
        f"{tail['reason']}",
        style="red" if tail["timed_out"] else "yellow",
    )


def way_in(tail: Json, name: str, side: Json, width: int) -> Iterable[RenderableType]:
    """One upstream's address: what came in by it, in numbers and as a curve."""
    is_old = name == tail["old"]
    title = Text(name, style=f"bold {styled(name)}")
    if side["curve"] is None:
        yield title + Text(
            f"{' (the old side)' if is_old else ''}: no listener is named in tail.listeners, so "
            "nothing is counted"
        )
        return
    yield title + Text(f"{' (the old side)' if is_old else ''}, {', '.join(side['listeners'])}")
    seconds, points = side["curve"]["seconds"], side["curve"]["points"]
    shown = fit(points, seconds, max(min(width, WIDTH_MAX) - AXIS, 10))
    logarithmic = max(shown.per_min, default=0.0) > LINEAR_MAX
    for row in plot(shown.per_min, HEIGHT if is_old else 2, logarithmic):
        yield Text(row, style=styled(name), no_wrap=True)
    yield Text(_marks(shown, tail if is_old else None), style="bright_black", no_wrap=True)
    numbers = [f"requests a minute{', logarithmic' if logarithmic else ''}"]
    if side["requests_since_in_sync"] is not None:
        since = "since it was in sync" if tail["in_sync_at"] else "since it lost its weight"
        numbers.append(f"{side['requests_since_in_sync']} {since}")
    if side["last_request_at"]:
        numbers.append(f"the last at {_clock(side['last_request_at'])}")
    else:
        numbers.append(f"none since {_clock(side['watched_since'])}, when the watch began")
    yield Text("  ".join(numbers), style="bright_black")


def _networks(side: Json) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("NETWORK")
    table.add_column("REQUESTS", justify="right")
    table.add_column("LAST AT", justify="right")
    for one in side["networks"]:
        table.add_row(one["network"], str(one["requests"]), _clock(one["last_at"]))
    if side["other_networks"]:
        table.add_row("others", str(side["other_networks"]), "")
    return table


# ---------------------------------------------------------------- the curve


class Fitted:
    """A curve in columns of the terminal."""

    __slots__ = ("begins", "column_s", "per_min")

    def __init__(self, begins: Sequence[float], per_min: Sequence[float], column_s: float) -> None:
        self.begins = begins
        """When each column begins, seconds since 1970."""
        self.per_min = per_min
        self.column_s = column_s


def fit(points: Sequence[Json], seconds: int, columns: int) -> Fitted:
    """Points of `seconds` seconds each, as so many columns at most: some points together in one,
    or one point in some."""
    if not points:
        return Fitted((), (), seconds)
    together = math.ceil(len(points) / columns)
    apart = min(max(columns // len(points), 1), 4) if together == 1 else 1
    begins, per_min = [], []
    for first in range(0, len(points), together):
        part = points[first : first + together]
        rate = sum(int(point["requests"]) for point in part) * 60 / (len(part) * seconds)
        at = _seconds(part[0]["at"])
        for number in range(apart):
            begins.append(at + number * seconds / apart)
            per_min.append(rate)
    return Fitted(begins, per_min, together * seconds / apart)


def plot(values: Sequence[float], height: int, logarithmic: bool) -> list[str]:
    """The rows of a curve, the highest first, with an axis. Whatever is not 0 is seen."""
    highest = max(values, default=0.0)
    if not highest:
        return [f"{'0':>{AXIS - 2}} ▏" + "▁" * len(values)]

    def scaled(value: float) -> float:
        return math.log1p(value) / math.log1p(highest) if logarithmic else value / highest

    levels = [max(round(scaled(value) * height * 8), value > 0) for value in values]
    rows = []
    for row in range(height - 1, -1, -1):
        label = {height - 1: _number(highest), 0: "0"}.get(row, "")
        cells = (_EIGHTHS[min(max(level - row * 8, 0), 8)] for level in levels)
        rows.append(f"{label:>{AXIS - 2}} ▏" + "".join(cells))
    return rows


def _marks(shown: Fitted, tail: Json | None) -> str:
    """Under the curve: when it begins and ends, and when the change was in sync and its time to
    live had passed."""
    if not shown.begins:
        return ""
    line = [" "] * (AXIS + len(shown.begins))
    end = shown.begins[-1] + shown.column_s
    labels = [(shown.begins[0], _hours(shown.begins[0])), (end, _hours(end))]
    if tail is not None and tail["in_sync_at"]:
        for at, label in ((tail["in_sync_at"], "^in sync"), (tail["ttl_passed_at"], "^TTL")):
            if shown.begins[0] <= _seconds(at) <= end:
                labels.insert(0, (_seconds(at), label))
    for at, label in labels:
        column = sum(begin <= at for begin in shown.begins) - 1
        start = AXIS + max(column, 0)
        if at == end:
            start = len(line) - len(label)
        start = max(min(start, len(line) - len(label)), 0)
        place = slice(start, start + len(label))
        # A mark that has no room is left out: those of the change come first.
        if all(cell == " " for cell in line[max(start - 1, 0) : start + len(label) + 1]):
            line[place] = label
    return "".join(line).rstrip()


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}".removesuffix(".0")


def _seconds(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()


def _clock(at: str) -> str:
    return f"{at[11:19]}Z"


def _hours(at: float) -> str:
    # As everything else that is shown, in UTC.
    return datetime.fromtimestamp(at, tz=UTC).strftime("%H:%M:%SZ")
