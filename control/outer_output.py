"""What the command line shows of what is beyond the proxy."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from turnout.control.cli_output import bar, percent, styled

Json = Mapping[str, Any]

_STAGES = {
    "in_sync": "green",
    "nothing": "green",
    "left": "bright_black",
    "failed": "red",
    "unknown": "red",
}
_WORDS = {
    "in_sync": "in sync",
    "taken_on": "taken on",
    "nothing": "was so already",
    "left": "left where it was",
}
_VERDICTS = {"pass": "green", "fail": "red", "inconclusive": "yellow", "error": "red"}


def beyond_view(receipt: Json) -> list[RenderableType]:
    """What a receipt says of what is beyond the proxy."""
    views: list[RenderableType] = []
    if receipt.get("outer"):
        views.append(moves_table(receipt["outer"]))
        if tail := receipt["outer"].get("tail"):
            views.append(_tail(tail))
    if receipt.get("gates"):
        views.append(gates_table(receipt["gates"]))
    return views


def _tail(tail: Json) -> Text:
    """Who came by the old side's address since, and whether it may go."""
    counted = "nobody counted them" if tail["requests"] is None else f"{tail['requests']} requests"
    networks = ", ".join(f"{network} {count}" for network, count in tail["networks"])
    may = "may be removed" if tail["over"] else "must not be removed yet"
    said = f"tail: {tail['upstream']} {may} after {tail['seconds']:.0f} s, {counted} came by it"
    text = f"{said} ({networks})" if networks else said
    return Text(f"{text}: {tail['reason']}", style="" if tail["over"] else "red")


def moves_table(outer: Json) -> Table:
    """Each step's move of an outer system, with when it was asked for, taken on and in sync."""
    table = _table(
        str(outer["kind"]).upper(), "WEIGHTS", "STAGE", "CHANGE", "CALLS", "ASKED", "IN SYNC", ""
    )
    for move in outer["moves"]:
        stage = str(move["stage"])
        table.add_row(
            "back" if move["restores"] else f"step {move['step']}",
            shares(move["weights"]),
            Text(_WORDS.get(stage, stage), style=_STAGES.get(stage, "yellow")),
            str(move["change"] or "-"),
            str(move["calls"]),
            str(move["asked_at"])[11:19],
            "-" if move["seconds"] is None else f"after {move['seconds']:.1f} s",
            _rounded(move),
        )
    return table


def _rounded(move: Json) -> str:
    if move["wanted"] != move["weights"] and move["stage"] != "left":
        return f"{move['detail']} the nearest to {shares(move['wanted'])}".strip()
    return str(move["detail"])


def gates_table(gates: Iterable[Json]) -> Table:
    table = _table("GATE", "STEP", "VERDICT", "WHY")
    for result in gates:
        verdict = str(result["verdict"])
        table.add_row(
            str(result["gate"]),
            str(result.get("step", "")),
            Text(verdict, style=_VERDICTS.get(verdict, "")),
            str(result["reason"]),
        )
    return table


def shares(weights: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {percent(float(weight))}" for name, weight in weights.items())


def plan_lines(outer: Json) -> Iterable[RenderableType]:
    """What a switchover that was only tried would call beyond the proxy."""
    where = "unknown" if outer["weights"] is None else shares(outer["weights"])
    first = "before" if outer["order"] == "outer_first" else "after"
    yield Text(f"beyond the proxy, {outer['kind']} ({first} the proxy at each step), now: {where}")
    yield from _remarks(outer)
    for number, call in enumerate(outer["calls"], start=1):
        if call["call"] is None:
            yield Text(f"  step {number}: nothing")
        else:
            becomes = f"  step {number}: {shares(call['becomes'])}"
            if call["becomes"] != call["weights"]:
                becomes += f" (the nearest to {shares(call['weights'])})"
            yield Text(becomes)
            yield Text(json.dumps(call["call"], indent=2))


def check_view(documents: Iterable[Json]) -> RenderableType:
    """`turnout check --outer`: each system as it is, and what a switch would call."""
    parts: list[RenderableType] = []
    for document in documents:
        parts.append(Text(str(document["service"]), style="bold"))
        outer = document.get("outer")
        if outer is not None:
            parts += _outer(outer)
        for source in document.get("discover", ()):
            parts += _source(source)
        gates = [gate for gate in document.get("gates", ()) if not gate.get("error")]
        if gates:
            parts.append(gates_table(gates))
        for gate in document.get("gates", ()):
            if gate.get("error"):
                parts.append(Text(f"gate {gate['gate']}: {gate['error']}", style="red"))
            parts += [_warning(text) for text in gate.get("warnings", ())]
    return Group(*parts)


def _outer(outer: Json) -> Iterable[RenderableType]:
    if outer.get("error"):
        yield Text(f"{outer['kind']}: {outer['error']}", style="red")
        return
    if outer["weights"] is not None:
        table = _table(str(outer["kind"]).upper(), "WEIGHT", "")
        for name, weight in outer["weights"].items():
            style = styled(name)
            table.add_row(Text(name, style=style), percent(weight), bar(weight, style, 20))
        yield table
    if outer["ttl_seconds"]:
        yield Text(f"clients may go by what they were told before for {outer['ttl_seconds']:g} s")
    yield from _remarks(outer)
    for switch in outer["switches"]:
        if switch["call"] is None:
            yield Text(f"a switch to {switch['to']} would call nothing: it is so already")
        else:
            yield Text(f"a switch to {switch['to']} would call:")
            yield Text(json.dumps(switch["call"], indent=2))


def _source(source: Json) -> Iterable[RenderableType]:
    where = f"{source['upstream']}, servers by {source['kind']}"
    if source.get("error"):
        yield Text(f"{where}: {source['error']}", style="red")
        return
    table = _table(where.upper(), "READY", "DRAINING")
    for server in source["servers"]:
        table.add_row(
            str(server["address"]),
            *("yes" if server[key] else "no" for key in ("ready", "draining")),
        )
    yield table


def _remarks(outer: Json) -> Iterable[RenderableType]:
    for problem in outer["problems"]:
        yield Text(f"not as configured: {problem}", style="red")
    for warning in outer["warnings"]:
        yield _warning(warning)


def _warning(text: str) -> Text:
    return Text(f"warning: {text}", style="yellow")


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
