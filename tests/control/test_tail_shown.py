"""Who still comes by the old way, as the API and the command line show it."""

import asyncio
import contextlib
import io
import math
import signal
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.control.api_bench import ApiBench, served
from tests.control.test_api import problem
from tests.control.test_cli import Shell, forking  # noqa: F401  # a fixture of this module, too
from tests.harness import ROOT
from tests.outer.tails import outer
from turnout.config.loader import load_text
from turnout.config.model import TailPolicy
from turnout.config.units import Rate
from turnout.control import api_models
from turnout.control.tail_output import fit, plot, tail_view
from turnout.proxy.commands import Entered
from turnout.proxy.scoreboard import S_ENTERED, RoutingWord

SHOP = 1
PATH = "/v1/services/shop/tail"
BEGIN = datetime(2026, 11, 26, 9, 0, tzinfo=UTC).timestamp()


def of_shop(**tail: Any) -> str:
    """What makes the configuration's last service have a tail."""
    return f"    outer: {outer({'blue': ['127.0.0.1:8080']}, **tail)}\n"


@contextlib.asynccontextmanager
async def looked_at(path: Path, **tail: Any) -> AsyncIterator[ApiBench]:
    """An API whose watch runs. Green has all, and blue is the old side."""
    async with served(path, of_shop(**tail)) as api:
        api.shared.set_word(SHOP, RoutingWord(False, 10_000, 1))
        run = asyncio.create_task(api.context.tails.run())
        await asyncio.sleep(0)
        yield api
        run.cancel()


def came(api: ApiBench, count: int) -> None:
    board = api.shared.scoreboard
    board.words[board.service(0, SHOP) + S_ENTERED] += count
    api.context.tails.look()


# ---------------------------------------------------------------- the API


async def test_the_api_shows_a_tail_with_its_reason_its_curve_and_its_networks(
    tmp_path: Path,
) -> None:
    async with looked_at(tmp_path) as api:
        api.context.tails.heard(Entered(SHOP, 0, {"192.0.2.0/24": 7}, time.monotonic()))
        came(api, 7)
        status, document, _ = await api.call("GET", PATH)
        assert status == 200
        api_models.Tail.model_validate(document)
        assert (document["old"], document["over"], document["in_sync_at"]) == ("blue", False, None)
        assert document["reason"].startswith("7 requests in the last minute; fewer than 1/min")
        blue = document["upstreams"]["blue"]
        assert blue["listeners"] == ["127.0.0.1:8080"]
        assert (blue["requests"], blue["requests_since_in_sync"]) == (7, 7)
        assert sum(point["requests"] for point in blue["curve"]["points"]) == 7
        assert blue["networks"][0]["network"] == "192.0.2.0/24"
        green = document["upstreams"]["green"]
        assert (green["requests"], green["curve"]) == (None, None)
        text = await (await api.raw("GET", "/metrics")).text()
        assert 'turnout_entry_requests_total{service="shop",upstream="blue"} 7.0' in text
        assert 'turnout_entry_requests_total{service="shop",upstream="green"}' not in text


async def test_while_a_switchover_is_under_way_its_old_side_is_not_over(tmp_path: Path) -> None:
    async with served(tmp_path, of_shop()) as api:
        api.context.tails.look()
        body = {"to": "green", "strategy": "careful"}
        _, started, _ = await api.call("POST", "/v1/services/shop/switchovers", body)
        _, document, _ = await api.call("GET", PATH)
        assert (document["old"], document["over"]) == ("blue", False)
        assert started["id"] in document["reason"]


async def test_who_has_no_tail_is_told_what_to_write(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        answer = await api.call("GET", PATH)
        assert problem(answer) == (404, "no-tail")
        assert "services.shop.outer.tail" in answer[1]["detail"]
        unknown = await api.call("GET", "/v1/services/nobody/tail")
        assert problem(unknown) == (404, "unknown-service")


# ---------------------------------------------------------------- the command line


async def shell(api: ApiBench, path: Path) -> Shell:
    made = Shell(path, api)
    await made.serve()
    return made


@contextlib.asynccontextmanager
async def coming(api: ApiBench) -> AsyncIterator[None]:
    """Requests come in by blue's address, until left."""

    async def come() -> None:
        while True:
            came(api, 1)
            await asyncio.sleep(0.05)

    task = asyncio.create_task(come())
    try:
        yield
    finally:
        task.cancel()


async def test_a_wait_ends_when_the_old_side_may_go(tmp_path: Path) -> None:
    async with looked_at(tmp_path, below="1/s", **{"for": "1s"}) as api:
        turnout = await shell(api, tmp_path)
        async with coming(api):
            await asyncio.sleep(0)
            shown = await turnout("tail")
            assert shown.code == 0
            assert "blue must not go yet: " in shown.out
            assert "no listener is named in tail.listeners" in shown.out  # for green
            running = await turnout.start("tail", "shop", "--wait")
            assert running.process.stderr is not None
            async with asyncio.timeout(10):
                assert b"blue must not go yet: " in await running.process.stderr.readline()
        done = await running.done()
        assert done.code == 0
        assert "blue may go" in done.out
        as_json = (await turnout("tail", "--wait", "--json")).json
        api_models.Tail.model_validate(as_json)
        assert as_json["over"] is True
        await turnout.away()


async def test_a_wait_gives_up_at_the_timeout_and_when_it_is_interrupted(tmp_path: Path) -> None:
    async with looked_at(tmp_path, timeout="2s") as api:
        turnout = await shell(api, tmp_path)
        running = await turnout.start("tail", "--wait")
        assert running.process.stderr is not None
        await running.process.stderr.readline()
        running.process.send_signal(signal.SIGINT)
        assert (await running.done()).code == 130
        done = await turnout("tail", "--wait")
        assert done.code == 1
        assert "blue must not go yet, though 2 s (tail.timeout) have passed: " in done.out
        # After that one may wait again, as a switchover that failed of it says.
        began_s = time.monotonic()
        assert (await turnout("tail", "--wait")).code == 1
        assert time.monotonic() >= began_s + 2
        assert (await turnout("tail")).code == 0
        await turnout.away()


async def test_without_a_tail_the_command_says_what_to_write(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        turnout = await shell(api, tmp_path)
        done = await turnout("tail", "--wait")
        assert done.code == 2
        assert "services.shop.outer.tail is off" in done.err
        await turnout.away()


# ---------------------------------------------------------------- the curve


def points(*requests: int, seconds: int = 10) -> list[dict[str, Any]]:
    def at(number: int) -> str:
        return datetime.fromtimestamp(BEGIN + number * seconds, UTC).isoformat()

    return [{"at": at(number), "requests": count} for number, count in enumerate(requests)]


def test_points_become_columns_and_each_is_a_rate_a_minute() -> None:
    one_each = fit(points(1, 0, 3), 10, 3)
    assert list(one_each.per_min) == [6, 0, 18]
    assert one_each.column_s == 10
    assert list(fit(points(1, 0, 3), 10, 6).per_min) == [6, 6, 0, 0, 18, 18]
    together = fit(points(*range(10)), 10, 4)
    assert list(together.per_min) == [6, 24, 42, 54]
    assert (together.column_s, len(together.begins)) == (30, 4)
    assert list(fit([], 10, 80).per_min) == []


def test_whatever_is_not_nothing_is_seen_and_the_highest_reaches_the_top() -> None:
    for logarithmic in (False, True):
        rows = plot([0, 1, 5000], 3, logarithmic)
        assert [len(row) for row in rows] == [12, 12, 12]
        nothing, least, most = zip(*(row[-3:] for row in rows), strict=True)
        assert set(nothing) == {" "}
        assert least[-1] != " "
        assert set(most) == {"█"}
        assert rows[0].startswith("   5000 ▏") and rows[-1].startswith("      0 ▏")
    assert plot([0, 0], 6, False) == ["      0 ▏▁▁"]


def test_a_logarithmic_curve_shows_the_few_beside_the_many() -> None:
    linear, logarithmic = (plot([10, 10_000], 8, on) for on in (False, True))
    assert sum(row[-2] != " " for row in linear) == 1
    assert sum(row[-2] != " " for row in logarithmic) > 1


def side(requests: Sequence[int], *, since: int | None, seconds: int = 10) -> dict[str, Any]:
    last = points(*requests, seconds=seconds)[-1]["at"]
    return {
        "listeners": ["10.0.0.1:8080"],
        "requests": sum(requests),
        "requests_since_in_sync": since,
        "watched_since": points(0)[0]["at"],
        "last_request_at": last,
        "curve": {"seconds": seconds, "points": points(*requests, seconds=seconds)},
        "networks": [{"network": "192.0.2.0/24", "requests": 12, "last_at": last}],
        "other_networks": 4,
    }


def document(**more: Any) -> dict[str, Any]:
    falling = [round(900 * math.exp(-number / 20)) for number in range(180)]
    at = [point["at"] for point in points(*falling)]
    return {
        "service": "shop", "old": "blue", "in_sync_at": at[60], "ttl_seconds": 300,
        "ttl_passed_at": at[90], "over": False, "timed_out": False, "reason": "not yet",
        "below": "1/min", "for_seconds": 300, "timeout_seconds": 3600,
        "upstreams": {
            "green": side([900 - one for one in falling], since=None),
            "blue": side(falling, since=77),
        },
        **more,
    }  # fmt: skip


def drawn(tail: dict[str, Any], width: int) -> list[str]:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(tail_view(tail, width))
    return console.export_text().splitlines()


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_view_fits_its_terminal_and_has_the_old_side_first(width: int) -> None:
    lines = drawn(document(), width)
    assert lines[0] == "blue (the old side), 10.0.0.1:8080"
    assert all(len(line) <= width for line in lines)
    text = "\n".join(lines)
    assert "^TTL" in text and "192.0.2.0/24" in text and "others" in text
    assert "shop: blue must not go yet: not yet" in text
    if width >= 80:
        marks = next(line for line in lines if "^TTL" in line)
        assert marks.index("^in sync") < marks.index("^TTL")
        assert "09:00:00Z" in marks and "09:30:00Z" in marks


def test_the_verdict_is_said_in_words() -> None:
    said = "\n".join(drawn(document(over=True, reason="quiet"), 100))
    assert "shop: blue may go: quiet" in said
    both = "\n".join(drawn(document(old=None, in_sync_at=None, reason="both have weight"), 100))
    assert "shop: both have weight" in both and "^TTL" not in both


def test_the_example_of_the_page_is_taken_by_the_loader() -> None:
    page = (ROOT / "docs" / "outer" / "tail.md").read_text()
    example = page.partition("```yaml\n")[2].partition("```")[0]
    [service] = load_text(example, environ={}).services
    assert service.outer is not None and service.outer.tail is not None
    assert service.outer.tail == TailPolicy(
        below=Rate(1, 60.0),
        for_s=300,
        timeout_s=3600,
        listeners={"blue": ("10.0.0.1:8080",), "green": ("10.0.0.2:8080",)},
        networks=1000,
    )
