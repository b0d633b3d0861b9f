"""Configuration and store -> table, words and plan: by value, and by the process itself."""

import contextlib
import json
import os
import subprocess
import sys
from contextlib import closing
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import pytest

from tests.harness import ROOT
from tests.outer.tails import outer
from turnout.config.loader import load_text
from turnout.config.model import Configuration
from turnout.config.table import TableServer
from turnout.control import wishes
from turnout.control.committed import Committed, committed_path, read_committed, write_committed
from turnout.control.compiler import service_names
from turnout.control.database import Database
from turnout.control.rows import Author, Note, ServiceRow
from turnout.control.source import Pinned, Source, source_of
from turnout.control.tables import Unresolved, compile_table, names_to_resolve
from turnout.proxy.commands import Plan, decode_plan
from turnout.proxy.scoreboard import RoutingWord

SHOP: dict[str, Any] = {
    "upstreams": {
        "blue": {"servers": ["10.0.0.1:80", "app:81"]},
        "green": {"servers": ["unix:/run/green.sock"]},
    }
}


def configuration(**more: Any) -> Configuration:
    document = {
        "listeners": [{"bind": "127.0.0.1:8080", "health_path": "/alive"}],
        "services": {"shop": SHOP},
        **more,
    }
    return load_text(json.dumps(document))


def row(**more: Any) -> ServiceRow:
    known: dict[str, Any] = {
        "slot": 3, "name": "shop", "first": "blue", "second": "green", "second_weight": 2500,
        "epoch": 17, "held": False, "hold_until": None, "servers": {}, "revision": 5,
    }  # fmt: skip
    return ServiceRow(**{**known, **more})


def test_what_was_decided_comes_from_the_store_and_the_rest_from_the_file() -> None:
    compiled = compile_table(
        configuration(), [row(held=True)], {"app:81": ["10.0.0.9:81", "[::9]:81"]}, number=4
    )
    assert compiled.words == ((3, RoutingWord(True, 2500, 17)),)
    assert compiled.table.number == 4
    [service] = compiled.table.services
    assert (service.name, service.slot, service.path_prefix) == ("shop", 3, "/")
    assert [upstream.name for upstream in service.upstreams] == ["blue", "green"]
    assert service.upstreams[0].servers == (
        TableServer("10.0.0.1:80", "10.0.0.1:80", 0),
        TableServer("app:81", "10.0.0.9:81", 1),
        TableServer("app:81", "[::9]:81", 2),
    )
    assert service.upstreams[1].servers == (
        TableServer("unix:/run/green.sock", "unix:/run/green.sock", 3),
    )
    assert compiled.table.health_paths == {"127.0.0.1:8080": "/alive"}
    assert compiled.unresolved == ()


def test_every_limit_of_the_table_has_a_knob() -> None:
    """None of what a worker is bounded by is what its code says."""
    shop = {
        **SHOP,
        "match": {"hosts": ["shop.example"], "path_prefix": "/shop"},
        "retries": {"attempts": 1, "budget": "1%", "budget_window": "1s", "budget_floor": 1},
        "hold": {"requests": 1, "timeout": "1s"},
        "health": {"passive": {"connect_failures": 1, "avoid": "1s"}},
        "try_out": {"header": "X-Try", "token": "secret"},
        "outer": outer({"blue": ["127.0.0.1:8080"]}, networks=1),
    }
    found = configuration(
        services={"shop": shop},
        timeouts=dict.fromkeys(
            (
                "header", "body_idle", "keep_alive", "connect", "first_byte", "tunnel_idle",
                "half_closed", "linger", "linger_total", "queue", "shutdown", "client_rate",
            ),
            "1500ms",
        ),
        limits={
            "header_bytes": "1KiB", "response_header_bytes": "1KiB", "headers": 10,
            "interim_answers": 1, "trailer_bytes": "64B", "body_bytes": "1B", "connections": 1,
            "replay_bytes": "1B", "pipeline_bytes": "1KiB", "pipes": 1, "server_connections": 1,
            "connections_per_client": 1, "refused_connections": 1, "client_rate": "1B",
        },
        pool={"idle": 1, "idle_timeout": "1s", "reuse": "safe"},
        log={"access": {"format": "text", "worker_buffer": "4KiB"}},
        via="other",
        trust_forwarded=["unix"],
    )  # fmt: skip
    table = compile_table(found, [row()], {}, number=1).table
    for part in (table, table.timeouts, table.limits, table.pool, table.services[0]):
        unset = [
            field.name
            for field in fields(part)
            if field.default is not MISSING and getattr(part, field.name) == field.default
        ]
        assert unset == [], type(part).__name__


def test_servers_that_the_api_set_win_over_the_file() -> None:
    known = row(servers={"green": ("10.0.0.5:80",)})
    compiled = compile_table(configuration(), [known], {"app:81": ["10.0.0.9:81"]}, number=1)
    [service] = compiled.table.services
    assert [server.address for server in service.upstreams[1].servers] == ["10.0.0.5:80"]
    assert [server.address for server in service.upstreams[0].servers] == ["10.0.0.1:80", "app:81"]


def test_only_names_are_resolved_those_of_the_store_included() -> None:
    known = row(servers={"green": ("other:80", "10.0.0.5:80")})
    assert names_to_resolve(configuration(), [known]) == {"app:81", "other:80"}


def test_a_name_without_an_answer_keeps_where_it_was_and_a_new_one_gets_no_traffic() -> None:
    before = compile_table(configuration(), [row()], {"app:81": ["10.0.0.9:81"]}, number=1)
    known = row(servers={"green": ("other:80",)})
    after = compile_table(configuration(), [known], {}, number=2, previous=before.table)
    [service] = after.table.services
    assert [server.endpoint for server in service.upstreams[0].servers] == [
        "10.0.0.1:80",
        "10.0.0.9:81",
    ]
    assert service.upstreams[1].servers == ()
    assert after.unresolved == (Unresolved("shop", "green", "other:80"),)


def test_a_server_keeps_its_health_word_and_nobody_gets_one_of_before() -> None:
    # A worker may still serve from the older table: a word must not change its meaning.
    before = compile_table(configuration(), [row()], {"app:81": ["10.0.0.9:81"]}, number=1)
    known = row(servers={"blue": ("10.0.0.3:80", "app:81")})
    after = compile_table(
        configuration(), [known], {"app:81": ["10.0.0.9:81"]}, number=2, previous=before.table
    )
    slots = {
        server.endpoint: server.health_slot
        for upstream in after.table.services[0].upstreams
        for server in upstream.servers
    }
    assert slots == {"10.0.0.3:80": 3, "10.0.0.9:81": 1, "unix:/run/green.sock": 2}


@pytest.mark.parametrize(
    ("highest", "capacity"), [(1, 64), (32, 64), (33, 128), (64, 128), (65, 256), (4000, 8192)]
)
def test_the_scoreboard_has_room_for_services_to_come(highest: int, capacity: int) -> None:
    compiled = compile_table(configuration(), [row(slot=highest)], {}, number=1)
    assert compiled.capacity == capacity


# ---------------------------------------------------------------- the source


def test_what_a_reload_cannot_change_keeps_the_value_of_the_start() -> None:
    first = configuration()
    second = Source(
        json.dumps({
            "listeners": [{"bind": ":1"}],
            "control": {"bind": "127.0.0.1:2"},
            "state": {"path": "/elsewhere.db"},
            "runtime_dir": "/elsewhere",
            "limits": {"services": 7, "headers": 90},
            "services": {"shop": SHOP},
        }),
        "t.yaml", "/", "/t.yaml", Pinned.of(first),
    )  # fmt: skip
    read = source_of(json.loads(json.dumps(second.document()))).read()
    assert Pinned.of(read) == Pinned.of(first)
    assert read.limits.headers == 90
    assert [str(listener.bind) for listener in read.listeners] == [":1"]


# ---------------------------------------------------------------- the committed copy


def test_the_committed_copy_comes_back_as_it_was(tmp_path: Path) -> None:
    settings = configuration(state={"path": str(tmp_path / "t.db")})
    assert read_committed(settings) is None
    compiled = compile_table(settings, [row()], {"app:81": ["10.0.0.9:81"]}, number=1)
    kept = Committed(compiled.table, compiled.words, 17)
    write_committed(settings, kept)
    assert read_committed(settings) == kept
    assert committed_path(settings).stat().st_mode & 0o777 == 0o600
    committed_path(settings).write_bytes(b'{"table": {}')
    assert read_committed(settings) is None


# ---------------------------------------------------------------- the process


def compile_file(path: Path) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [sys.executable, "-P", "-m", "turnout.control.compiler", "--config", str(path)],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=20,
        check=False,
    )


def plan_of(done: "subprocess.CompletedProcess[bytes]") -> Plan:
    assert done.returncode == 0, done.stderr.decode()
    return decode_plan(done.stdout)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "turnout.yaml"
    path.write_text(
        json.dumps({
            "workers": 3,
            "runtime_dir": str(tmp_path / "run"),
            "listeners": [{"bind": "127.0.0.1:8080"}, {"bind": "unix:listen.sock"}],
            "state": {"path": "t.db"},
            "services": {"shop": {**SHOP, "initial": "green", "upstreams": {
                "blue": {"servers": ["10.0.0.1:80"]}, "green": {"servers": ["10.0.0.2:80"]}}}},
        })
    )  # fmt: skip
    return path


def test_the_first_plan_has_the_initial_weights_and_the_next_those_of_the_store(
    file: Path, tmp_path: Path
) -> None:
    first = plan_of(compile_file(file))
    assert (first.workers, first.runtime_dir) == (3, str(tmp_path / "run"))
    assert first.binds == ["127.0.0.1:8080", f"unix:{tmp_path}/listen.sock"]
    assert first.words == [[1, RoutingWord(False, 10_000, 0).pack()]]
    assert first.degraded == ""
    database = Database(tmp_path / "t.db")
    held = database.hold("shop", True, None, 1.0, Note())
    database.close()
    second = plan_of(compile_file(file))
    assert second.words == [[1, RoutingWord(True, 10_000, held.epoch).pack()]]
    assert second.epoch == held.epoch
    # A table's number names one content for ever.
    assert second.table["number"] > first.table["number"]
    assert second.number > first.number


def test_a_table_number_that_the_directory_has_already_is_not_given_again(
    file: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "table-41.json").touch()
    assert plan_of(compile_file(file)).table["number"] == 42


def test_without_a_readable_store_the_committed_copy_is_served_and_said(
    file: Path, tmp_path: Path
) -> None:
    plan = plan_of(compile_file(file))
    settings = source_of(plan.configuration).read()
    database = Database(tmp_path / "t.db")
    [known] = database.ensure_services(service_names(settings), 1.0, live=False)
    database.close()
    moved = replace(known, second_weight=1234, epoch=9)
    compiled = compile_table(settings, [moved], {}, number=7)
    write_committed(settings, Committed(compiled.table, compiled.words, 9))
    for path in tmp_path.glob("t.db*"):
        if path.name != "t.db.committed.json":
            path.write_bytes(b"this is no database at all, it is " * 100)
    degraded = plan_of(compile_file(file))
    assert degraded.words == [[1, RoutingWord(False, 1234, 9).pack()]]
    assert (degraded.epoch, degraded.table["number"]) == (9, 7)
    assert "t.db" in degraded.degraded
    assert degraded.workers == 3


def test_a_store_that_is_behind_the_committed_copy_moves_no_traffic(
    file: Path, tmp_path: Path
) -> None:
    """An older copy was restored, or what the write-ahead log had is lost."""
    settings = source_of(plan_of(compile_file(file)).configuration).read()
    with closing(Database(tmp_path / "t.db")) as database:
        [known] = database.services()
    moved = replace(known, second_weight=1234, epoch=9)
    compiled = compile_table(settings, [moved], {}, number=7)
    write_committed(settings, Committed(compiled.table, compiled.words, 9))
    done = compile_file(file)
    plan = plan_of(done)
    assert plan.words == [[1, RoutingWord(False, 1234, 9).pack()]]
    assert (plan.degraded, plan.epoch) == ("", 9)
    assert plan.table["number"] > 7
    assert b"t.db is older than the routing" in done.stderr
    with closing(Database(tmp_path / "t.db")) as database:
        assert database.audit()[0].action == "store.adopt"
        # From now on it is the store's: nothing is said a second time.
    assert b"older" not in compile_file(file).stderr


def test_without_store_and_copy_nothing_is_started(file: Path, tmp_path: Path) -> None:
    (tmp_path / "t.db").write_bytes(b"this is no database at all, it is " * 100)
    done = compile_file(file)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"t.db" in done.stderr


def test_a_wrong_configuration_exits_2_and_names_every_line(file: Path) -> None:
    file.write_text("workers: many\nservices: {}\nlisteners: []\n")
    done = compile_file(file)
    assert (done.returncode, done.stdout) == (2, b"")
    assert f"{file}:1: workers is many" in done.stderr.decode()
    assert not file.with_name("t.db").exists()


def test_upstreams_that_a_switchover_needs_keep_their_names(file: Path, tmp_path: Path) -> None:
    first = source_of(plan_of(compile_file(file)).configuration)
    [service] = first.read().services
    with contextlib.closing(Database(tmp_path / "t.db")) as database:
        row = database.service("shop")
        assert row is not None
        wish = wishes.Wish(Author("ci"), at=1.0)
        new = wishes.to_weight(service, row, "weights", 5_000, wish)
        running = database.start_switchover(new, 1.0, lambda _: Note())
    file.write_text(file.read_text().replace('"green"', '"canary"'))
    done = compile_file(file)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode() == (
        f"{file}: services.shop.upstreams: keep blue and green, in that order, until switchover"
        f" {running.id} has ended (turnout wait, turnout abort); start turnout with these to end it\n"
    )
