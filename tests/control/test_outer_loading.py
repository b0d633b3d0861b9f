"""Kinds are loaded when they are configured, with their pace; a missing library names the extra."""

import asyncio
import copy
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from tests.control.test_executor import configured
from tests.harness import bench
from turnout.config.loader import load_text
from turnout.config.model import Configuration
from turnout.config.outer import DiscoverKind, GateKind, OuterKind
from turnout.control.journal import Journal
from turnout.control.outer.layers import OuterLayers
from turnout.control.outer.loading import Pace, Paces, missing_extras, module_of, pace_of
from turnout.control.store import Store

ROOT = Path(__file__).parents[2]

WEBHOOKS = """
listeners: [{bind: "127.0.0.1:8080"}]
services:
  shop:
    match: {hosts: [shop.example]}
    upstreams: {blue: {servers: ["127.0.0.1:9001"]}, green: {servers: ["127.0.0.1:9002"]}}
    outer: {kind: webhook, url: "http://127.0.0.1:9/shop"}
  bank:
    match: {hosts: [bank.example]}
    upstreams: {blue: {servers: ["127.0.0.1:9001"]}, green: {servers: ["127.0.0.1:9002"]}}
    outer: {kind: webhook, url: "http://127.0.0.1:9/bank"}
"""

BEANSTALK = (
    "{kind: elastic_beanstalk, cname: shop.eu-west-1.elasticbeanstalk.com,"
    " environments: {blue: shop-blue, green: shop-green}}"
)


async def test_never_more_calls_than_the_burst_and_the_rate_allow() -> None:
    pace, at = Pace(per_s=200.0, burst=5), []

    async def caller() -> None:
        for _ in range(3):
            await pace.turn()
            at.append(time.monotonic())

    await asyncio.gather(*(caller() for _ in range(20)))
    assert len(at) == 60
    for first, begin in enumerate(at):
        for last in range(first, len(at)):
            allowed = 5 + (at[last] - begin) * 200.0 + 1
            assert last - first + 1 <= allowed + 1e-6, (first, last)


async def test_services_of_one_kind_share_one_pace(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "turnout.db")
    try:
        journal = Journal(store, lambda event: None, time.time)
        layers = OuterLayers(store, journal, lambda *_: None, time.time)
        shop, bank = load_text(WEBHOOKS).services
        assert shop.outer is not None and bank.outer is not None
        one = layers._context(shop, shop.outer.settings, 1.0)
        other = layers._context(bank, bank.outer.settings, 1.0)
        assert one.turn == other.turn
        assert module_of(shop.outer.settings) == "webhook"
        assert pace_of(shop.outer.settings) is not pace_of(shop.outer.settings)
    finally:
        store.close()


def test_a_router_and_a_source_of_one_account_share_one_pace() -> None:
    text = WEBHOOKS.replace('{kind: webhook, url: "http://127.0.0.1:9/shop"}', BEANSTALK).replace(
        'green: {servers: ["127.0.0.1:9002"]}',
        "green: {discover: {kind: elastic_beanstalk, environment: shop-green, port: 80}}",
        1,
    )
    shop = load_text(text).services[0]
    discover = shop.upstreams[1].discover
    assert shop.outer is not None and discover is not None
    paces = Paces()
    assert paces.of(shop.outer.settings) is paces.of(discover.settings)


async def test_another_configuration_makes_only_what_changed_anew(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "turnout.db")
    try:
        journal = Journal(store, lambda event: None, time.time)
        layers = OuterLayers(store, journal, lambda *_: None, time.time)
        before = load_text(WEBHOOKS)
        layers.configure(before)
        shop, bank = layers.of("shop"), layers.of("bank")
        layers.configure(load_text(WEBHOOKS.replace("9/bank", "9/other")))
        assert layers.of("shop") is shop
        assert layers.of("bank") is not bank
        layers.configure(without_outer(before))
        assert layers.of("shop") is None
        assert layers.of("nobody") is None
        await layers.close()
    finally:
        store.close()


def without_outer(configuration: Configuration) -> Configuration:
    return replace(
        configuration,
        services=tuple(replace(service, outer=None) for service in configuration.services),
    )


@pytest.mark.parametrize(
    ("outer", "library", "extra"),
    [
        (
            "{kind: route53, zone_id: Z1, name: a.example, set_identifiers: {blue: b, green: g}}",
            "boto3",
            "turnout[aws]",
        )
    ],
)
def test_a_library_that_is_not_installed_names_its_extra(
    tmp_path: Path, outer: str, library: str, extra: str
) -> None:
    """In a process where the library cannot be imported, through the command."""
    file = tmp_path / "turnout.yaml"
    file.write_text(
        "listeners: [{bind: '127.0.0.1:8080'}]\nservices:\n  shop:\n    upstreams: {blue: {servers: "
        f"['127.0.0.1:9001']}}, green: {{servers: ['127.0.0.1:9002']}}}}\n    outer: {outer}\n"
    )
    code = f"import sys; sys.modules[{library!r}] = None; sys.argv[0] = 'turnout'\n" + (
        "from turnout.control.entry import main; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, "check", "--outer", "-c", str(file)],
        env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert extra in done.stdout.replace("\n", "")


WITHOUT_BOTO3 = "import sys; sys.modules['boto3'] = None"
WHAT_NEEDS_BOTO3 = "boto3 is not installed, and is needed by shop (outer: route53)"
REMEDY = "pip install 'turnout[aws]'"
ROUTE53 = {
    "kind": "route53", "zone_id": "Z1", "name": "a.example",
    "set_identifiers": {"blue": "b", "green": "g"},
}  # fmt: skip


def test_everything_that_needs_a_library_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    text = WEBHOOKS.replace(
        'outer: {kind: webhook, url: "http://127.0.0.1:9/shop"}',
        f"outer: {ROUTE53}\n    gates: {{lag: {{kind: cloudwatch_alarm, names: [x]}}}}",
    ).replace(
        'outer: {kind: webhook, url: "http://127.0.0.1:9/bank"}', "", 1
    ).replace(
        'green: {servers: ["127.0.0.1:9002"]}}',
        "green: {discover: {kind: elastic_beanstalk, environment: shop-green}}}",
    )  # fmt: skip
    configuration = load_text(text)
    assert list(missing_extras(configuration)) == []
    monkeypatch.setitem(sys.modules, "boto3", None)
    assert list(missing_extras(configuration)) == [
        (
            "boto3 is not installed, and is needed by shop (outer: route53), "
            "shop (discover of green: elastic_beanstalk), shop (gate lag: cloudwatch_alarm), "
            "bank (discover of green: elastic_beanstalk)",
            REMEDY,
        )
    ]
    assert list(missing_extras(load_text(WEBHOOKS))) == []


def test_every_kind_that_imports_an_extra_says_so() -> None:
    """By what its file, or the one for calls that it shares with others, imports."""
    for union in (OuterKind, DiscoverKind, GateKind):
        for kind in get_args(get_args(union)[0]):
            source = (ROOT / "control" / "outer" / f"{kind.module}.py").read_text()
            calls_aws = "from turnout.control.outer.aws import" in source
            assert kind.library == ("boto3" if calls_aws else ""), kind


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_check_warns_of_a_library_that_is_not_installed(
    tmp_path: Path, form: tuple[str, ...]
) -> None:
    file = tmp_path / "turnout.yaml"
    file.write_text(
        WEBHOOKS.replace('{kind: webhook, url: "http://127.0.0.1:9/shop"}', f"{ROUTE53}")
    )
    code = f"{WITHOUT_BOTO3}; sys.argv[0] = 'turnout'\n" + (
        "from turnout.control.entry import main; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, "check", "-c", str(file), *form],
        env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    warning = f"{WHAT_NEEDS_BOTO3}: {REMEDY}"
    if form:
        assert json.loads(done.stdout)["warnings"] == [warning]
    else:
        assert f"warning: {warning}" in done.stderr


async def test_a_start_and_a_reload_tell_of_a_library_that_is_not_installed() -> None:
    async with bench(faults={"turnout.control.app": WITHOUT_BOTO3}) as at:
        product = at.product

        def told() -> int:
            lines = [line for line in product.log().splitlines() if WHAT_NEEDS_BOTO3 in line]
            assert all("control.problem" in line and REMEDY in line for line in lines)
            return len(lines)

        assert told() == 0
        configuration = copy.deepcopy(product.configuration)
        configuration["services"]["shop"]["outer"] = ROUTE53
        product.write_config(configuration)
        await product.api.call("POST", "/v1/reload")
        await product.until(lambda: told() == 1, "the reload's problem")
        before = product.control_pid
        os.kill(before, signal.SIGKILL)
        await product.control_replaced(before)
        await product.until(lambda: told() == 2, "the start's problem")


def test_what_is_not_configured_is_not_imported() -> None:
    code = "import sys, turnout.control.app; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    loaded = set(done.stdout.split())
    assert not loaded & {"boto3", "botocore", "turnout.control.outer.route53"}
    assert configured().services[0].outer is None
