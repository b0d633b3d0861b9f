"""Route 53's router against moto's server, where that tells the truth.

It knows record sets, batches and aliases by another hand than the fake beside. It is never
PENDING, never throttles and hardly validates: all of that is held against the fake.
"""

import os
import uuid
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.outer.target_route53 import ADDRESSES, LOAD_BALANCERS, NAME, environment
from tests.outer.test_route53 import WHOLE_TARGETS, make
from turnout.config.weights import WHOLE
from turnout.control.outer.seams import Refused, Verdict, Wanted


class Zone:
    """A hosted zone in moto."""

    def __init__(self) -> None:
        self.client = boto3.client("route53")
        created = self.client.create_hosted_zone(
            Name="shop.example", CallerReference=str(uuid.uuid4())
        )
        self.zone_id = created["HostedZone"]["Id"].removeprefix("/hostedzone/")

    def put(self, *record_sets: dict[str, Any]) -> None:
        changes = [{"Action": "CREATE", "ResourceRecordSet": one} for one in record_sets]
        self.client.change_resource_record_sets(
            HostedZoneId=self.zone_id, ChangeBatch={"Changes": changes}
        )

    def of_name(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.client.list_resource_record_sets(
            HostedZoneId=self.zone_id
        )["ResourceRecordSets"]
        return [one for one in found if one["Name"] == f"{NAME}."]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    yield f"http://{host}:{port}"
    moto.stop()


@pytest.fixture
def zone(server: str, monkeypatch: pytest.MonkeyPatch) -> Zone:
    for name, value in environment(server).items():
        monkeypatch.setenv(name, value)
    assert os.environ["AWS_ENDPOINT_URL_ROUTE_53"] == server
    return Zone()


def pair(type_: str, check: str) -> list[dict[str, Any]]:
    return [
        {
            "Name": NAME, "Type": type_, "SetIdentifier": identifier, "Weight": weight, "TTL": 60,
            "ResourceRecords": [{"Value": ADDRESSES[type_][identifier]}], "HealthCheckId": check,
        }
        for identifier, weight in (("shop-blue", 100), ("shop-green", 0))
    ]  # fmt: skip


async def test_weighted_records_are_moved_and_restored(zone: Zone) -> None:
    check = zone.client.create_health_check(
        CallerReference=str(uuid.uuid4()),
        HealthCheckConfig={"Type": "TCP", "IPAddress": "192.0.2.1", "Port": 80},
    )["HealthCheck"]["Id"]
    zone.put(*pair("A", check), *pair("AAAA", check))
    before = zone.of_name()
    router = make(zone.zone_id, types=["A", "AAAA"])
    first = await router.read()
    assert (first.second_weight, list(first.problems), list(first.warnings)) == (0, [], [])
    change = await router.set_weights(Wanted(2500), first)
    assert (await router.poll(change)).verdict is Verdict.IN_SYNC
    split = await router.read()
    assert split.second_weight == 2500
    assert split.settings == first.settings
    await router.set_weights(Wanted(0, exact=first.exact), split)
    assert zone.of_name() == before
    await router.close()


async def test_an_alias_is_switched_whole(zone: Zone) -> None:
    zone.put({"Name": NAME, "Type": "A", "AliasTarget": LOAD_BALANCERS["blue"]})
    router = make(zone.zone_id, targets=WHOLE_TARGETS)
    first = await router.read()
    assert (first.second_weight, list(first.problems)) == (0, [])
    await router.set_weights(Wanted(WHOLE), first)
    assert (await router.read()).second_weight == WHOLE
    assert zone.of_name()[0]["AliasTarget"] == LOAD_BALANCERS["green"]
    await router.close()


async def test_an_unknown_zone_is_refused(zone: Zone) -> None:
    router = make("Z0THER")
    with pytest.raises(Refused, match="Correct zone_id"):
        await router.read()
    await router.close()
