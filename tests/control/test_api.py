"""The control API: who may, what a call must look like, and what it answers."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from prometheus_client.parser import text_string_to_metric_families

from tests.control.api_bench import READ, TOKENS, WRITE, ApiBench, served
from turnout.control import api_models, openapi, problems, refusals
from turnout.control.api import Api
from turnout.control.publisher import Reloaded
from turnout.control.routes import ROUTES
from turnout.proxy.scoreboard import HealthWord

SHOP = "/v1/services/shop"


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[ApiBench]:
    async with served(tmp_path) as made:
        yield made


async def in_bytes(api: ApiBench, *pieces: bytes) -> bytes:
    """The answer, or as much as comes of it, to a call that is written as it stands."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.http.port)
    async with asyncio.timeout(5):
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.05)
        writer.write_eof()
        answer = await reader.read()
        writer.close()
    return answer


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[ApiBench]:
    """With two tokens."""
    async with served(tmp_path, TOKENS) as made:
        yield made


def problem(answer: tuple[int, dict[str, Any], Any]) -> tuple[int, str]:
    """Status and name of a problem document that is whole."""
    status, document, headers = answer
    assert headers["Content-Type"] == "application/problem+json", document
    assert set(document) >= {"type", "title", "status", "detail"}, document
    assert document["status"] == status
    assert document["detail"]
    return status, document["type"].removeprefix("urn:turnout:problem:")


# ---------------------------------------------------------------- services


async def test_a_service_is_shown_with_weights_health_and_what_is_in_flight(api: ApiBench) -> None:
    api.bench.workers.request(1)
    api.prober.set("green", HealthWord.UNHEALTHY)
    status, document, headers = await api.call("GET", SHOP)
    assert status == 200
    assert headers["ETag"] == f'"{document["revision"]}"'
    api_models.Service.model_validate(document)
    assert document["weights"] == {"blue": 100, "green": 0}
    assert document["active"] == "blue"
    assert document["switchover"] is None
    assert document["upstreams"]["blue"]["in_flight"] == 1
    assert document["upstreams"]["blue"]["healthy"] is True
    green = document["upstreams"]["green"]
    assert (green["healthy"], green["health"]) == (False, "unhealthy")
    assert green["reason"] == "green is unhealthy"
    assert green["servers"][0]["last_probe"] == {
        "at": "2023-11-14T22:13:20.250Z", "status": None, "ms": 1.5, "error": "connection refused",
    }  # fmt: skip


async def test_an_upstream_that_was_never_probed_is_unknown_and_not_healthy(api: ApiBench) -> None:
    api.prober.set("green", HealthWord.UNKNOWN)
    _, document, _ = await api.call("GET", SHOP)
    green = document["upstreams"]["green"]
    assert (green["healthy"], green["health"]) == (False, "unknown")
    assert green["servers"][0]["last_probe"] is None


async def test_services_are_listed_under_items(api: ApiBench) -> None:
    _, one, _ = await api.call("GET", SHOP)
    assert (await api.call("GET", "/v1/services"))[1] == {"items": [one]}


async def test_servers_that_the_api_set_are_shown_beside_the_files(api: ApiBench) -> None:
    path = f"{SHOP}/upstreams/green"
    status, document, _ = await api.call("PUT", path, {"servers": ["127.0.0.1:9009"]})
    assert status == 200
    assert document["upstreams"]["green"]["configured_servers"] == ["127.0.0.1:9002"]
    assert document["upstreams"]["blue"]["configured_servers"] is None
    assert api.bench.tables.published == ["servers of shop green"]


@pytest.mark.parametrize("servers", [["nonsense"], ["127.0.0.1:9009", "127.0.0.1:9009"]])
async def test_servers_that_cannot_be_get_400(api: ApiBench, servers: list[str]) -> None:
    answer = await api.call("PUT", f"{SHOP}/upstreams/green", {"servers": servers})
    assert problem(answer) == (400, "bad-servers")
    assert api.bench.tables.published == []


async def test_an_upstream_with_traffic_is_not_left_without_a_server(api: ApiBench) -> None:
    for weights, upstreams in (((100, 0), ["blue"]), ((99.99, 0.01), ["blue", "green"])):
        body = {"weights": {"blue": weights[0], "green": weights[1]}}
        assert (await api.call("PUT", f"{SHOP}/weights", body))[0] == 200
        for upstream in upstreams:
            answer = await api.call("PUT", f"{SHOP}/upstreams/{upstream}", {"servers": []})
            assert problem(answer) == (422, "server-needed")
            assert "of the traffic" in answer[1]["detail"]
        _, document, _ = await api.call("GET", SHOP)
        shown = [one["configured_servers"] for one in document["upstreams"].values()]
        assert shown == [None, None]
    assert api.bench.tables.published == []


async def test_an_upstream_without_traffic_may_have_no_server(api: ApiBench) -> None:
    assert (await api.call("PUT", f"{SHOP}/upstreams/green", {"servers": []}))[0] == 200


async def test_a_service_is_held_and_released(api: ApiBench) -> None:
    _, held, _ = await api.call("POST", f"{SHOP}/hold", {"reason": "a migration"})
    assert held["held"] is True
    assert held["held_until"] is not None
    _, released, _ = await api.call("POST", f"{SHOP}/release")
    assert (released["held"], released["held_until"]) == (False, None)


# ---------------------------------------------------------------- switchovers


async def test_a_switch_is_accepted_with_its_id_and_location(api: ApiBench) -> None:
    body = {"to": "green", "reason": "v42"}
    status, document, headers = await api.call("POST", f"{SHOP}/switchovers", body)
    assert status == 202
    api_models.Switchover.model_validate(document)
    assert headers["Location"] == f"/v1/switchovers/{document['id']}"
    assert (document["from"], document["to"], document["reason"]) == ("blue", "green", "v42")
    assert (document["requested_by"], document["changed"]) == ("local", True)
    ended = await api.until_state(document["id"], "completed")
    api_models.SwitchoverWithReceipt.model_validate(ended)
    assert ended["receipt"]["state"] == "completed"
    assert [phase["name"] for phase in ended["phases"]][-1] == "draining"
    assert (await api.call("GET", SHOP))[1]["active"] == "green"


async def test_wait_holds_the_answer_until_the_end(api: ApiBench) -> None:
    body = {"to": "green"}
    status, document, _ = await api.call("POST", f"{SHOP}/switchovers?wait=true", body)
    assert status == 200
    assert document["state"] == "completed"
    assert document["receipt"]["switchover"] == document["id"]


async def test_whoever_waits_is_let_go_when_control_stops(api: ApiBench) -> None:
    body = {"to": "green", "strategy": "careful"}
    waiting = asyncio.create_task(api.call("POST", f"{SHOP}/switchovers?wait=true", body))
    async with asyncio.timeout(5):
        while (now := (await api.call("GET", SHOP))[1]["switchover"]) is None:
            await asyncio.sleep(0.005)
    await api.http.server.app.shutdown()  # type: ignore[attr-defined]
    answer = await asyncio.wait_for(waiting, 5)
    assert problem(answer) == (503, "stopping")
    assert answer[1]["switchover"] == now["id"]
    await api.until_state(now["id"], "shifting")


async def test_a_switch_to_where_all_traffic_is_changes_nothing(api: ApiBench) -> None:
    status, document, _ = await api.call("POST", f"{SHOP}/switchovers", {"to": "blue"})
    assert (status, document["state"], document["changed"]) == (200, "completed", False)
    assert document["id"] is None
    assert (await api.call("GET", f"{SHOP}/switchovers"))[1] == {"items": []}


async def test_a_dry_run_says_what_would_be_done_and_does_nothing(api: ApiBench) -> None:
    body = {"to": "green", "strategy": "careful", "dry_run": True}
    status, document, _ = await api.call("POST", f"{SHOP}/switchovers", body)
    assert (status, document["dry_run"], document["id"]) == (200, True, None)
    assert document["steps"] == [
        {"blue": 90, "green": 10}, {"blue": 50, "green": 50}, {"blue": 0, "green": 100},
    ]  # fmt: skip
    assert (await api.call("GET", f"{SHOP}/switchovers"))[1] == {"items": []}


async def test_a_second_switchover_gets_409_and_the_id_of_the_first(api: ApiBench) -> None:
    body = {"to": "green", "strategy": "careful"}
    _, first, _ = await api.call("POST", f"{SHOP}/switchovers", body)
    answer = await api.call("POST", f"{SHOP}/switchovers", body)
    assert problem(answer) == (409, "switchover-under-way")
    assert answer[1]["switchover"] == first["id"]


async def test_a_target_that_is_not_healthy_gets_422_unless_it_is_forced(api: ApiBench) -> None:
    api.prober.set("green", HealthWord.UNHEALTHY)
    body: dict[str, Any] = {"to": "green"}
    answer = await api.call("POST", f"{SHOP}/switchovers", body)
    assert problem(answer) == (422, "upstream-unhealthy")
    assert answer[1]["upstream"] == "green"
    body |= {"force": True, "reason": "it answers"}
    status, document, _ = await api.call("POST", f"{SHOP}/switchovers", body)
    assert (status, document["forced_by"], document["force_reason"]) == (202, "local", "it answers")


async def test_wait_healthy_is_a_duration_with_a_unit(api: ApiBench) -> None:
    api.prober.set("green", HealthWord.UNHEALTHY)
    body = {"to": "green", "wait_healthy": "5s"}
    status, document, _ = await api.call("POST", f"{SHOP}/switchovers", body)
    assert status == 202
    api.prober.set("green", HealthWord.HEALTHY)
    await api.until_state(document["id"], "completed")
    answer = await api.call("POST", f"{SHOP}/switchovers", {"to": "blue", "wait_healthy": 5})
    assert problem(answer) == (400, "malformed-body")


async def test_history_has_the_newest_first_a_page_at_a_time(api: ApiBench) -> None:
    ids = []
    for target in ("green", "blue", "green"):
        path = f"{SHOP}/switchovers?wait=true"
        ids.append((await api.call("POST", path, {"to": target}))[1]["id"])
    items = (await api.call("GET", f"{SHOP}/switchovers?limit=2"))[1]["items"]
    assert [item["id"] for item in items] == [ids[2], ids[1]]
    path = f"{SHOP}/switchovers?limit=2&before={ids[1]}"
    assert [item["id"] for item in (await api.call("GET", path))[1]["items"]] == [ids[0]]


async def test_verbs_steer_and_a_verb_that_the_state_forbids_gets_409(api: ApiBench) -> None:
    body = {"to": "green", "strategy": "careful"}
    _, document, _ = await api.call("POST", f"{SHOP}/switchovers", body)
    path = f"/v1/switchovers/{document['id']}"
    await api.until_state(document["id"], "shifting")
    answer = await api.call("POST", f"{path}/approve")
    assert problem(answer) == (409, "illegal-verb")
    assert (answer[1]["switchover"], answer[1]["state"]) == (document["id"], "shifting")
    _, paused, _ = await api.call("POST", f"{path}/pause", {"reason": "lunch"})
    assert (paused["state"], paused["waiting_for"]) == ("paused", "resume")
    assert (await api.call("POST", f"{path}/resume"))[1]["state"] == "shifting"
    _, ended, _ = await api.call("POST", f"{path}/abort?wait=true")
    assert ended["state"] == "aborted"
    assert ended["receipt"]["weights_after"] == {"blue": 100, "green": 0}


async def test_rollback_goes_back_and_without_anything_to_go_back_to_it_is_409(
    api: ApiBench,
) -> None:
    assert problem(await api.call("POST", f"{SHOP}/rollback")) == (409, "nothing-to-roll-back")
    await api.call("POST", f"{SHOP}/switchovers?wait=true", {"to": "green"})
    status, document, _ = await api.call("POST", f"{SHOP}/rollback?wait=true", {"reason": "oh no"})
    assert (status, document["state"], document["to"]) == (200, "completed", "blue")
    assert (await api.call("GET", SHOP))[1]["weights"] == {"blue": 100, "green": 0}


async def test_the_one_under_way_is_in_the_service(api: ApiBench) -> None:
    body = {"to": "green", "strategy": "careful"}
    _, document, _ = await api.call("POST", f"{SHOP}/switchovers", body)
    async with asyncio.timeout(5):
        while (service := (await api.call("GET", SHOP))[1])["active"] is not None:
            await asyncio.sleep(0.005)
    api_models.Service.model_validate(service)
    assert service["switchover"]["id"] == document["id"]
    assert service["weights"] == {"blue": 90, "green": 10}


# ---------------------------------------------------------------- weights by hand


async def test_weights_are_answered_with_the_service_when_they_are_acknowledged(
    api: ApiBench,
) -> None:
    body = {"weights": {"blue": 99.75, "green": 0.25}, "reason": "a taste"}
    status, document, _ = await api.call("PUT", f"{SHOP}/weights", body)
    assert status == 200
    assert document["weights"] == {"blue": 99.75, "green": 0.25}
    assert set(api.bench.workers.seen.values()) == {api.bench.workers.newest_epoch}
    (done,) = (await api.call("GET", f"{SHOP}/switchovers"))[1]["items"]
    assert (done["strategy"], done["reason"]) == ("weights", "a taste")


@pytest.mark.parametrize(
    "weights",
    [
        {"blue": 90},
        {"blue": 90, "green": 20},
        {"blue": 90, "red": 10},
        {"blue": 90.001, "green": 9.999},
    ],
)
async def test_weights_that_cannot_be_get_400(api: ApiBench, weights: dict[str, float]) -> None:
    answer = await api.call("PUT", f"{SHOP}/weights", {"weights": weights})
    assert problem(answer) == (400, "bad-weights")
    assert api.bench.weights == []


async def test_weights_onto_an_unhealthy_upstream_get_422(api: ApiBench) -> None:
    api.prober.set("green", HealthWord.UNHEALTHY)
    body = {"weights": {"blue": 90, "green": 10}}
    answer = await api.call("PUT", f"{SHOP}/weights", body)
    assert problem(answer) == (422, "upstream-unhealthy")


async def test_weights_that_were_not_reached_get_422_with_the_switchover(api: ApiBench) -> None:
    api.prober.set("green", HealthWord.UNKNOWN)
    body = {"weights": {"blue": 90, "green": 10}}
    answer = await api.call("PUT", f"{SHOP}/weights", body)
    assert problem(answer) == (422, "weights-not-reached")
    assert answer[1]["state"] == "failed"
    assert (await api.call("GET", SHOP))[1]["weights"] == {"blue": 100, "green": 0}


# ---------------------------------------------------------------- what a call must look like


async def test_a_wrong_body_lists_every_field_and_what_was_expected(api: ApiBench) -> None:
    body = {"too": "green", "force": "yes", "wait_healthy": "60"}
    answer = await api.call("POST", f"{SHOP}/switchovers", body)
    assert problem(answer) == (400, "malformed-body")
    errors = {entry["field"]: entry["detail"] for entry in answer[1]["errors"]}
    assert set(errors) == {"to", "too", "force", "wait_healthy"}
    assert errors["too"] == "there is no such field"
    assert errors["wait_healthy"] == "it needs a unit. Write 60s"
    assert api.bench.weights == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"green"', b'{"to": 5}', b"\xff"])
async def test_a_body_that_is_no_such_object_gets_400(api: ApiBench, body: bytes) -> None:
    answer = await api.call("POST", f"{SHOP}/switchovers", body)
    assert problem(answer) == (400, "malformed-body")


async def test_a_body_over_the_limit_gets_413(tmp_path: Path) -> None:
    async with served(tmp_path, "control: {body: 1KiB}\n") as api:
        answer = await api.call("POST", f"{SHOP}/hold", b" " * 2000)
        assert problem(answer) == (413, "body-too-large")
        assert (await api.call("POST", f"{SHOP}/hold", b" " * 1000 + b"{}"))[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/v1/nothing", (404, "not-found")),
        ("GET", "/v1/services/toys", (404, "unknown-service")),
        ("GET", "/v1/services/toys/switchovers", (404, "unknown-service")),
        ("GET", "/v1/switchovers/0000000", (404, "unknown-switchover")),
        ("POST", "/v1/switchovers/0000000/abort", (404, "unknown-switchover")),
        ("DELETE", SHOP, (405, "method-not-allowed")),
        ("POST", "/v1/upgrade", (503, "no-supervisor")),
        ("GET", f"{SHOP}/switchovers?limit=many", (400, "malformed-query")),
        ("GET", "/v1/audit?limit=1001", (400, "malformed-query")),
    ],
)
async def test_what_is_not_there_is_a_problem_too(
    api: ApiBench, method: str, path: str, expected: tuple[int, str]
) -> None:
    assert problem(await api.call(method, path)) == expected


async def test_405_says_what_is_allowed(api: ApiBench) -> None:
    _, _, headers = await api.call("DELETE", SHOP)
    assert headers["Allow"] == "GET, HEAD"


async def test_an_unknown_upstream_or_strategy_gets_404(api: ApiBench) -> None:
    answer = await api.call("POST", f"{SHOP}/switchovers", {"to": "red"})
    assert problem(answer) == (404, "unknown-upstream")
    body = {"to": "green", "strategy": "bold"}
    answer = await api.call("POST", f"{SHOP}/switchovers", body)
    assert problem(answer) == (404, "unknown-strategy")
    answer = await api.call("PUT", f"{SHOP}/upstreams/red", {"servers": []})
    assert problem(answer) == (404, "unknown-upstream")


async def test_a_mistake_of_our_own_gets_500_with_an_id_and_no_trace(
    api: ApiBench, caplog: pytest.LogCaptureFixture
) -> None:
    api.reloaded = RuntimeError("a secret of the inside")
    answer = await api.call("POST", "/v1/reload")
    assert problem(answer) == (500, "internal-error")
    assert "secret" not in str(answer[1])
    assert answer[1]["id"] in caplog.text
    assert answer[1]["id"] in api.problems[0]


# ---------------------------------------------------------------- If-Match


async def test_a_stale_revision_gets_412_and_changes_nothing(api: ApiBench) -> None:
    revision = (await api.call("GET", SHOP))[1]["revision"]
    await api.call("POST", f"{SHOP}/hold")
    body = {"to": "green"}
    answer = await api.call("POST", f"{SHOP}/switchovers", body, If_Match=f'"{revision}"')
    assert problem(answer) == (412, "stale-revision")
    assert answer[1]["expected"] == revision
    assert answer[1]["found"] > revision
    found = (await api.call("GET", SHOP))[1]["revision"]
    status, _, _ = await api.call("POST", f"{SHOP}/switchovers", body, If_Match=f'"{found}"')
    assert status == 202


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", f"{SHOP}/weights", {"weights": {"blue": 90, "green": 10}}),
        ("PUT", f"{SHOP}/upstreams/green", {"servers": []}),
        ("POST", f"{SHOP}/hold", {}),
        ("POST", f"{SHOP}/release", {}),
        ("POST", f"{SHOP}/rollback", {}),
    ],
)
async def test_every_write_of_a_service_takes_if_match(
    api: ApiBench, method: str, path: str, body: Any
) -> None:
    assert problem(await api.call(method, path, body, If_Match='"0"')) == (412, "stale-revision")
    assert problem(await api.call(method, path, body, If_Match="x")) == (400, "malformed-header")


async def test_a_verb_takes_if_match(api: ApiBench) -> None:
    body = {"to": "green", "strategy": "careful"}
    _, document, _ = await api.call("POST", f"{SHOP}/switchovers", body)
    found = await api.until_state(document["id"], "shifting")
    path = f"/v1/switchovers/{document['id']}/pause"
    assert problem(await api.call("POST", path, If_Match='"1"')) == (412, "stale-revision")
    _, now, _ = await api.call("GET", f"/v1/switchovers/{document['id']}")
    assert now["state"] == found["state"]


@pytest.mark.parametrize("query", ["wait=maybe", "wait=0.0", "wait=true&wait=false"])
async def test_a_parameter_that_is_refused_has_started_nothing(api: ApiBench, query: str) -> None:
    answer = await api.call("POST", f"{SHOP}/switchovers?{query}", {"to": "green"})
    assert problem(answer) == (400, "malformed-query")
    assert (await api.call("GET", f"{SHOP}/switchovers"))[1]["items"] == []


async def test_a_wait_that_no_date_can_tell_is_refused(api: ApiBench) -> None:
    api.prober.set("green", HealthWord.UNHEALTHY)
    body = {"to": "green", "wait_healthy": "999999999999d"}
    answer = await api.call("POST", f"{SHOP}/switchovers", body)
    assert problem(answer) == (400, "malformed-body")
    assert answer[1]["errors"] == [{"field": "wait_healthy", "detail": "expected at most 60d"}]
    status, document, _ = await api.call(
        "POST", f"{SHOP}/switchovers", {**body, "wait_healthy": "60d"}
    )
    assert (status, document["state"]) == (202, "checking")


# ---------------------------------------------------------------- Idempotency-Key


async def test_the_same_call_with_the_same_key_gets_the_first_answer_again(api: ApiBench) -> None:
    body = {"to": "green"}
    path = f"{SHOP}/switchovers"
    first = await api.call("POST", path, body, Idempotency_Key="k1")
    await api.until_state(first[1]["id"], "completed")
    again = await api.call("POST", path, body, Idempotency_Key="k1")
    assert again[:2] == first[:2]
    assert again[2]["Location"] == first[2]["Location"]
    assert again[2]["Idempotency-Replayed"] == "true"
    assert len((await api.call("GET", path))[1]["items"]) == 1


async def test_another_body_with_the_same_key_gets_422(api: ApiBench) -> None:
    await api.call("POST", f"{SHOP}/hold", {"reason": "one"}, Idempotency_Key="k2")
    answer = await api.call("POST", f"{SHOP}/hold", {"reason": "two"}, Idempotency_Key="k2")
    assert problem(answer) == (422, "key-used-otherwise")


async def test_a_key_that_is_empty_protects_nothing_and_gets_400(api: ApiBench) -> None:
    answer = await api.call("POST", f"{SHOP}/switchovers", {"to": "green"}, Idempotency_Key="")
    assert problem(answer) == (400, "malformed-header")
    assert (await api.call("GET", SHOP))[1]["switchover"] is None


async def test_calls_at_once_with_one_key_start_one_switchover(api: ApiBench) -> None:
    path = f"{SHOP}/switchovers?wait=true"
    answers = await asyncio.gather(
        *(api.call("POST", path, {"to": "green"}, Idempotency_Key="k3") for _ in range(5))
    )
    assert {(status, document["id"]) for status, document, _ in answers} == {
        (200, answers[0][1]["id"])
    }
    assert {document["state"] for _, document, _ in answers} == {"completed"}


async def test_a_refusal_is_the_first_answer_too(api: ApiBench) -> None:
    api.prober.set("green", HealthWord.UNHEALTHY)
    path = f"{SHOP}/switchovers"
    first = await api.call("POST", path, {"to": "green"}, Idempotency_Key="k4")
    api.prober.set("green", HealthWord.HEALTHY)
    again = await api.call("POST", path, {"to": "green"}, Idempotency_Key="k4")
    assert problem(first) == problem(again) == (422, "upstream-unhealthy")


async def test_a_key_survives_a_new_control_process(tmp_path: Path) -> None:
    path = f"{SHOP}/switchovers"
    async with served(tmp_path) as api:
        first = await api.call("POST", path, {"to": "green"}, Idempotency_Key="k5")
        await api.until_state(first[1]["id"], "completed")
    (tmp_path / "run").rename(tmp_path / "run of before")
    async with served(tmp_path) as api:
        again = await api.call("POST", path, {"to": "green"}, Idempotency_Key="k5")
        assert again[:2] == first[:2]


async def test_keys_of_two_callers_have_nothing_to_do_with_each_other(tmp_path: Path) -> None:
    more = TOKENS + '    - {name: other, scope: write, token: "other-token-0123456789"}\n'
    async with served(tmp_path, more) as api:
        other = {"Authorization": "Bearer other-token-0123456789"}
        await api.call("POST", f"{SHOP}/hold", {"reason": "a"}, Idempotency_Key="k", **WRITE)
        status, _, headers = await api.call(
            "POST", f"{SHOP}/hold", {"reason": "b"}, Idempotency_Key="k", **other
        )
        assert status == 200
        assert "Idempotency-Replayed" not in headers


# ---------------------------------------------------------------- who may


async def test_without_tokens_whoever_reaches_it_may_do_everything(api: ApiBench) -> None:
    assert (await api.call("POST", f"{SHOP}/hold"))[0] == 200
    (entry,) = (await api.call("GET", "/v1/audit"))[1]["items"]
    assert (entry["who"], entry["address"], entry["action"]) == (
        "local", "127.0.0.1", "service.hold",
    )  # fmt: skip


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer wrong", "Basic d3JpdGU6", "Bearer write-token-01234567890"],
)
@pytest.mark.parametrize("path", ["/v1/services", "/metrics", "/openapi.json", "/", "/v1/nothing"])
async def test_with_tokens_there_is_401_without_one(
    guarded: ApiBench, authorization: str, path: str
) -> None:
    headers = {"Authorization": authorization} if authorization else {}
    answer = await guarded.call("GET", path, **headers)
    assert problem(answer) == (401, "token-needed")
    assert answer[2]["WWW-Authenticate"].startswith("Bearer ")


async def test_a_token_of_scope_read_may_read_and_gets_403_for_a_write(guarded: ApiBench) -> None:
    assert (await guarded.call("GET", SHOP, **READ))[0] == 200
    answer = await guarded.call("POST", f"{SHOP}/hold", {"reason": "no"}, **READ)
    assert problem(answer) == (403, "scope-too-small")
    assert (await guarded.call("GET", SHOP, **READ))[1]["held"] is False


async def test_a_token_of_scope_write_may_read_too_and_gives_its_name_to_the_audit(
    guarded: ApiBench,
) -> None:
    body = {"to": "green", "reason": "v42"}
    _, document, _ = await guarded.call("POST", f"{SHOP}/switchovers?wait=true", body, **WRITE)
    assert document["requested_by"] == "ci"
    (entry,) = (await guarded.call("GET", "/v1/audit", **WRITE))[1]["items"]
    assert (entry["who"], entry["reason"]) == ("ci", "v42")


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_liveness_and_readiness_are_open(guarded: ApiBench, path: str) -> None:
    assert (await guarded.call("GET", path))[0] == 200


async def test_every_write_needs_the_scope_write(guarded: ApiBench) -> None:
    for route in ROUTES:
        if route.method == "GET":
            continue
        path = route.path.format(service="shop", upstream="green", id="0")
        answer = await guarded.call(route.method, path, {}, **READ)
        assert problem(answer) == (403, "scope-too-small"), route.operation


async def test_a_call_from_another_site_is_refused(api: ApiBench) -> None:
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1"):
        answer = await api.call("POST", f"{SHOP}/hold", Origin=origin)
        assert problem(answer) == (403, "foreign-origin")
    host = f"127.0.0.1:{api.http.server.port}"
    assert (await api.call("POST", f"{SHOP}/hold", Origin=f"http://{host}"))[0] == 200
    answer = await api.call("POST", f"{SHOP}/hold", Sec_Fetch_Site="cross-site")
    assert problem(answer) == (403, "foreign-origin")
    assert problem(await api.call("GET", SHOP, Host="evil.example")) == (403, "foreign-host")


# ---------------------------------------------------------------- the rest


async def test_reload_says_what_came_of_it(api: ApiBench) -> None:
    status, document, _ = await api.call("POST", "/v1/reload", {"reason": "more workers"})
    assert status == 200
    api_models.Reload.model_validate(document)
    assert document == {
        "changed": True, "table": 7, "workers": 2, "needs_restart": [], "unresolved": [],
    }  # fmt: skip
    assert api.reloads[0].reason == "more workers"


async def test_a_configuration_that_is_refused_gets_422(api: ApiBench) -> None:
    api.reloaded = Reloaded(error="turnout.yaml:3: services is empty")
    answer = await api.call("POST", "/v1/reload")
    assert problem(answer) == (422, "configuration-refused")
    assert answer[1]["detail"] == "turnout.yaml:3: services is empty"


async def test_metrics_are_given_as_text(api: ApiBench) -> None:
    answer = await api.raw("GET", "/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain")
    names = {family.name for family in text_string_to_metric_families(await answer.text())}
    assert {"turnout_requests", "turnout_weight", "turnout_upstream_healthy"} <= names


async def test_readiness_needs_a_worker_that_serves(api: ApiBench) -> None:
    assert (await api.call("GET", "/readyz"))[:2] == (200, {"status": "ready", "reasons": []})
    api.shared.scoreboard.settle(0)
    status, document, _ = await api.call("GET", "/readyz")
    api_models.Readiness.model_validate(document)
    assert (status, document["reasons"]) == (503, ["no worker serves"])


async def test_readiness_says_everything_that_is_wrong(api: ApiBench) -> None:
    api.unready.append("2 probe loops do not run")
    api.shared.scoreboard.settle(0)
    status, document, _ = await api.call("GET", "/readyz")
    assert (status, document["status"]) == (503, "not ready")
    assert document["reasons"] == ["2 probe loops do not run", "no worker serves"]


async def test_the_page_needs_nothing_from_elsewhere(api: ApiBench) -> None:
    answer = await api.raw("GET", "/")
    text = await answer.text()
    assert answer.headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "http://" not in text
    assert "https://" not in text


async def test_a_browser_without_a_token_gets_the_page_that_asks_for_one(
    guarded: ApiBench,
) -> None:
    answer = await guarded.raw("GET", "/", Accept="text/html,*/*")
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer ")
    assert "<input" in await answer.text()


async def test_head_is_answered_as_get_without_a_body(api: ApiBench) -> None:
    answer = await api.raw("HEAD", SHOP)
    assert (answer.status, await answer.text()) == (200, "")


# ---------------------------------------------------------------- OpenAPI


def test_the_openapi_document_is_valid() -> None:
    OpenAPIV31SpecValidator(openapi.document("1.2.3")).validate()


async def test_the_openapi_document_has_every_call_and_no_other(api: ApiBench) -> None:
    _, document, _ = await api.call("GET", "/openapi.json")
    described = {
        (method.upper(), path)
        for path, operations in document["paths"].items()
        for method in operations
    }
    app = api.http.server.app  # type: ignore[attr-defined]
    served_now = {
        (route.method, route.resource.canonical)
        for route in app.router.routes()
        if route.method != "HEAD"
    }
    assert described == served_now
    assert len(ROUTES) == len({route.operation for route in ROUTES})


def test_every_operation_is_a_method_of_the_api() -> None:
    for route in ROUTES:
        assert callable(getattr(Api, route.operation))


def test_every_refusal_of_the_executor_has_a_title_and_its_status() -> None:
    kinds = [
        kind
        for kind in vars(refusals).values()
        if isinstance(kind, type)
        and issubclass(kind, refusals.Refusal)
        and kind is not refusals.Refusal
    ]
    assert kinds
    for kind in kinds:
        assert problems.KNOWN[kind.type][0] == kind.status


# ---------------------------------------------------------------- what is no HTTP of ours

HOLD = b"POST /v1/services/shop/hold HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"


@pytest.mark.parametrize(
    ("pieces", "status"),
    [
        ((HOLD + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",), b"400"),
        ((HOLD + b"Content-Encoding: br\r\nContent-Length: 2\r\n\r\n{}",), b"400"),
        ((HOLD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n", b"zz\r\n"), b""),
        ((HOLD + b"Content-Length: 9\r\n\r\n{", b"}"), b""),
        ((HOLD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n", b"1\r\n"), b""),
    ],
    ids=["gzip", "br", "bad-chunk", "cut-short", "chunks-cut-short"],
)
async def test_a_body_that_is_not_whole_is_the_callers_mistake(
    api: ApiBench, pieces: tuple[bytes, ...], status: bytes
) -> None:
    answer = await in_bytes(api, *pieces)
    assert answer[9:12] == status, answer
    assert api.problems == []
    assert (await api.call("GET", SHOP))[1]["held"] is False


async def test_a_token_that_is_no_text_is_refused(guarded: ApiBench) -> None:
    answer = await in_bytes(
        guarded,
        b"GET /v1/services HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Authorization: Bearer \xff\xfe\r\n\r\n",
    )
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert guarded.problems == []
