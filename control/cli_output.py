"""What the command line shows: tables and bars for people, JSON for scripts.

Results go to stdout, remarks to stderr. Without a terminal the same is said in plain lines.
"""

import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

Json = Mapping[str, Any]

PIPE_WIDTH: Final = 160
"""Columns where there is no terminal that could have a width."""


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    return Console(stderr=stderr, highlight=False, width=width)


out: Final = _console(stderr=False)
err: Final = _console(stderr=True)

COLOURS: Final = {"blue": "bright_blue", "green": "green"}
"""Upstreams are named by the user; these two names look as they sound."""
BAR: Final = 30
_STATE_STYLES: Final = {
    "completed": "green",
    "rolled_back": "yellow",
    "aborted": "yellow",
    "failed": "red",
}


def print_json(document: object) -> None:
    """To stdout, and nothing else is."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def styled(name: str) -> str:
    return COLOURS.get(name, "cyan")


def bar(share: float, style: str, width: int = BAR) -> Text:
    """A bar of `share` percent."""
    filled = round(width * share / 100)
    if share > 0 and filled == 0:
        filled = 1
    return Text("█" * filled, style=style) + Text("░" * (width - filled), style="bright_black")


def percent(weight: float) -> str:
    return f"{weight:.2f}".rstrip("0").rstrip(".") + " %"


def service_view(services: Iterable[Json]) -> RenderableType:
    """Weights, health and what is in flight, a row for each upstream; then each server with
    its last probe and why it is not healthy; then what else is to be known."""
    shown = list(services)
    weights = _table("SERVICE", "UPSTREAM", "WEIGHT", "", "HEALTH", "IN FLIGHT")
    servers = _table("SERVER", "OF", "HEALTH", "LAST PROBE", "WHY")
    remarks: list[RenderableType] = []
    for service in shown:
        for position, (name, upstream) in enumerate(service["upstreams"].items()):
            weight = float(service["weights"][name])
            weights.add_row(
                "" if position else str(service["name"]),
                Text(name, style=styled(name)),
                percent(weight),
                bar(weight, styled(name), 20),
                _health(upstream),
                str(upstream["in_flight"]),
            )
            of = name if len(shown) == 1 else f"{service['name']}/{name}"
            for server in upstream["servers"]:
                servers.add_row(
                    str(server["address"]),
                    Text(of, style=styled(name)),
                    _server_health(server),
                    _probe(server.get("last_probe")),
                    str(server.get("reason") or ""),
                )
            if not upstream["servers"]:
                servers.add_row("none", Text(of, style=styled(name)), "", "", "")
        remarks += _remarks(service)
    return Group(weights, "", servers, *remarks)


UPGRADE_STEPS: Final = {
    "proving": "the new program proves itself",
    "starting": "its workers start",
    "replacing": "they serve beside the old ones; control is replaced",
}


def steps_until(shown: int, step: str) -> list[str]:
    """What is to be said when an upgrade has come to `step`, and `shown` steps were told."""
    names = list(UPGRADE_STEPS)
    reached = names.index(step) + 1 if step in names else len(names) if step == "done" else shown
    return [UPGRADE_STEPS[name] for name in names[shown:reached]]


def upgrade_remarks(upgrade: Json) -> Iterable[Text]:
    """What there is to say of upgrades, beside that nothing is odd."""
    if upgrade.get("under_way"):
        yield Text(f"an upgrade is under way: {UPGRADE_STEPS.get(upgrade['step'], '')}")
        return
    if upgrade.get("step") == "failed":
        yield Text(f"the last upgrade failed: {upgrade['error']}", style="yellow")
    if upgrade.get("program_changed"):
        yield Text(
            "another version of turnout is installed than the one that runs, and what dies is not"
            " replaced: run `turnout upgrade`",
            style="red",
        )
    if upgrade.get("finishing"):
        yield Text(f"{upgrade['finishing']} workers finish what they have, and leave")


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _health(upstream: Json) -> Text:
    if upstream.get("health") == "unknown":
        return Text("not known yet", style="yellow")
    if upstream["healthy"]:
        return Text("healthy", style="green")
    return Text("unhealthy", style="red")


def _server_health(server: Json) -> Text:
    if server["healthy"]:
        return Text("healthy", style="green")
    if not server["endpoint"]:
        return Text("no address", style="red")
    if server["health"] == "unknown":
        return Text("not known yet", style="yellow")
    return Text("unhealthy", style="red")


def _probe(probe: Json | None) -> str:
    if probe is None:
        return "-"
    answer = probe["status"] if probe["status"] is not None else "no answer"
    return f"{str(probe['at'])[11:19]}  {answer}  {probe['ms']:.0f} ms"


def _remarks(service: Json) -> Iterable[Text]:
    for name, upstream in service["upstreams"].items():
        if not upstream["healthy"] and upstream.get("reason"):
            yield Text(f"{service['name']}/{name}: {upstream['reason']}", style="red")
        if upstream.get("discovered") is not None:
            yield _source(f"{service['name']}/{name}", upstream["discovered"])
        if upstream.get("configured_servers") is not None:
            of_file = ", ".join(upstream["configured_servers"]) or "none"
            yield Text(
                f"{service['name']}/{name}: servers set by the API; the file has {of_file}",
                style="yellow",
            )
    beyond = service.get("outer")
    if beyond and beyond["weights"] is not None:
        weights = ", ".join(f"{name} {percent(share)}" for name, share in beyond["weights"].items())
        sound = beyond["stage"] in ("in_sync", "nothing", "left")
        stage = "in sync" if beyond["stage"] == "nothing" else beyond["stage"].replace("_", " ")
        since = f"{stage} since {beyond['since'][:19]}Z"
        yield Text(f"{beyond['kind']}: {weights}, {since}", style="" if sound else "red")
    if service.get("held"):
        yield Text("held: new requests wait", style="yellow")
    under_way = service.get("switchover")
    if under_way:
        yield Text(
            f"switchover {under_way['id']} to {under_way.get('to', '?')}: {under_way['state']}",
            style="yellow",
        )


def _source(upstream: str, discovered: Json) -> Text:
    """Where an upstream's servers come from, and how that is."""
    said = discovered["seconds_ago"]
    since = "nothing yet" if said is None else f"{discovered['ready']} ready, {said:.0f} s ago"
    text = f"{upstream}: servers from {discovered['kind']}, {since}"
    if discovered["problem"]:
        return Text(f"{text}; {discovered['problem']}", style="yellow")
    return Text(text)


def switchover_line(now: Json, service: Json) -> str:
    """One line for logs: where a switchover stands."""
    weights = " ".join(f"{name}={percent(value)}" for name, value in service["weights"].items())
    in_flight = " ".join(
        f"{name}={upstream['in_flight']}" for name, upstream in service["upstreams"].items()
    )
    waiting = f' waiting_for={now["waiting_for"]} next="{_awaited(now)}"' if _awaited(now) else ""
    doing = f' waits="{now["doing"]}"' if now.get("doing") else ""
    return f"{now['id']} {now['state']}{waiting}{doing}  weights {weights}  in flight {in_flight}"


def _awaited(now: Json) -> str:
    """What a person has to say for it to go on; empty while it does so by itself."""
    verb = {"resume": "resume", "approval": "approve"}.get(str(now.get("waiting_for")), "")
    return f"turnout {verb} {now['id']}" if verb else ""


def switchover_view(now: Json, service: Json) -> RenderableType:
    """The live picture of a switchover under way."""
    style = _STATE_STYLES.get(str(now["state"]), "bold yellow")
    steps = now.get("steps") or []
    title = Text.assemble(
        f"{now['service']}: {now['from']} → {now['to']}  ",
        (str(now["state"]), style),
        f"  step {now['step']} of {len(steps)}" if len(steps) > 1 else "",
        (f"  next at {now['next_step_at']}" if now.get("next_step_at") else ""),
        (f"  waits for {_awaited(now)}" if _awaited(now) else ""),
        (f"  what is left is cut at {now['drain_until']}" if now.get("drain_until") else ""),
        (f"  {now['id']}", "bright_black"),
    )
    doing = [Text(str(now["doing"]))] if now.get("doing") else []
    return Group(title, *doing, service_view([service]))


def receipt_view(receipt: Json) -> RenderableType:
    """The receipt as a person reads it; the sum is written out."""
    state = str(receipt["state"])
    requests = receipt["requests"]
    title = Text.assemble(
        ("Receipt ", "bold"),
        str(receipt["switchover"]),
        f"  {receipt['service']}: {receipt['from']} → {receipt['to']}  ",
        (state, _STATE_STYLES.get(state, "")),
        f"  by {receipt['requested_by']}",
        f"  “{receipt['reason']}”" if receipt.get("reason") else "",
    )
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    if receipt.get("outcome"):
        facts.add_row("outcome", str(receipt["outcome"]))
    if receipt.get("forced_by"):
        facts.add_row("forced by", str(receipt["forced_by"]))
    facts.add_row(
        "phases",
        ", ".join(f"{phase['name']} {phase['seconds']:.2f} s" for phase in receipt["phases"]),
    )
    flip = receipt["in_flight_at_flip"]
    facts.add_row(
        "in flight at the flip",
        f"{sum(flip.values())}"
        + (
            " (" + ", ".join(f"{v} {k}" for k, v in flip.items() if v) + ")"
            if any(flip.values())
            else ""
        ),
    )
    parts = ("answered_by_upstream", "answered_by_proxy", "client_aborted", "cut", "in_flight")
    facts.add_row(
        "requests",
        f"{requests['accepted']} accepted = "
        + " + ".join(f"{requests[part]} {part.replace('_', ' ')}" for part in parts),
    )
    for label in ("retries", "not_retried"):
        counted = {reason: count for reason, count in receipt[label].items() if count}
        if counted:
            facts.add_row(
                label.replace("_", " "), ", ".join(f"{v} {k}" for k, v in counted.items())
            )
    if receipt.get("refused"):
        facts.add_row("refused heads", str(receipt["refused"]))
    upstreams = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("UPSTREAM", "REQUESTS", "ERRORS", "P50", "P99"):
        upstreams.add_column(column, justify="left" if column == "UPSTREAM" else "right")
    for name, counted in receipt["upstreams"].items():
        upstreams.add_row(
            Text(name, style=styled(name)),
            str(counted["requests"]),
            str(counted["errors"]),
            *(_milliseconds(counted.get(key)) for key in ("p50_ms", "p99_ms")),
        )
    views: list[RenderableType] = [title, facts, upstreams]
    if receipt["cut"]:
        views.append(_cut_table(receipt["cut"]))
    if receipt.get("outer") or receipt.get("gates"):
        from turnout.control.outer_output import beyond_view

        views += beyond_view(receipt)
    return Group(*views)


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"


def _cut_table(cut: Iterable[Json]) -> Table:
    table = Table(box=None, header_style="bold red", pad_edge=False)
    for column in ("CUT", "PATH", "CLASS", "AGE", "WHY"):
        table.add_column(column, overflow="fold")
    for entry in cut:
        table.add_row(
            str(entry["method"]),
            str(entry["path"]),
            str(entry["class"]),
            f"{entry['age_seconds']:.1f} s",
            str(entry["reason"]),
        )
    return table


def history_table(items: Iterable[Json]) -> Table:
    table = _table("ID", "SERVICE", "MOVE", "STRATEGY", "STATE", "BY", "STARTED", "WHY")
    for item in items:
        state = str(item["state"])
        table.add_row(
            str(item["id"]),
            str(item["service"]),
            f"{item['from']} → {item['to']}",
            str(item["strategy"]),
            Text(state, style=_STATE_STYLES.get(state, "yellow"), no_wrap=True),
            str(item["requested_by"]),
            Text(str(item["started_at"])[:19].replace("T", " "), no_wrap=True),
            " · ".join(filter(None, (item["reason"], item.get("outcome")))),
        )
    return table
