"""The fake of Route 53 refuses what the service refuses, whole batches, in its words."""

import asyncio
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.fakes.route53 import FakeRoute53
from tests.outer.target_route53 import ADDRESSES, LOAD_BALANCERS, NAME, environment, shop


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in environment("http://127.0.0.1:9").items():
        monkeypatch.setenv(name, value)
    yield


async def ask(fake: FakeRoute53, operation: str, **parameters: Any) -> dict[str, Any]:
    """Make a call as boto3 does, without its own tries and checks."""

    def call() -> dict[str, Any]:
        client = boto3.client(
            "route53",
            endpoint_url=fake.url,
            config=Config(retries={"total_max_attempts": 1}, parameter_validation=False),
        )
        answer: dict[str, Any] = getattr(client, operation)(**parameters)
        return answer

    return await asyncio.to_thread(call)


def record(identifier: str = "", **more: Any) -> dict[str, Any]:
    one = {"Name": NAME, "Type": "A", "TTL": 60, "ResourceRecords": [{"Value": "192.0.2.7"}]}
    found = {**one, **({"SetIdentifier": identifier, "Weight": 1} if identifier else {}), **more}
    return {key: value for key, value in found.items() if value is not None}


async def change(fake: FakeRoute53, *changes: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    batch = [{"Action": action, "ResourceRecordSet": one} for action, one in changes]
    return await ask(
        fake,
        "change_resource_record_sets",
        HostedZoneId=fake.zone_id,
        ChangeBatch={"Changes": batch},
    )


ALIAS = LOAD_BALANCERS["blue"]


@pytest.mark.parametrize(
    ("action", "wanted", "code", "words"),
    [
        ("UPSERT", record("shop-blue", Weight=256), "InvalidInput", "maxInclusive '255'"),
        ("UPSERT", record("shop-blue", TTL=61), "InvalidChangeBatch", "must contain the same TTL"),
        ("UPSERT", record(), "InvalidChangeBatch", "other RRSets exist with the same name"),
        (
            "CREATE",
            record("shop-new", Weight=None, Region="eu-west-1"),
            "InvalidChangeBatch",
            "cannot be created as a non-Region set exists",
        ),
        ("CREATE", record("shop-blue"), "InvalidChangeBatch", "but it already exists"),
        ("DELETE", record("shop-blue"), "InvalidChangeBatch", "do not match the current values"),
        ("DELETE", record("shop-new"), "InvalidChangeBatch", "but it was not found"),
        ("UPSERT", record("shop-blue", HealthCheckId="x"), "NoSuchHealthCheck", "with the ID x"),
        ("UPSERT", record(Weight=1), "InvalidInput", "Missing field 'SetIdentifier'"),
        ("UPSERT", record("shop-blue", Weight=None), "InvalidInput", "but found none"),
        ("UPSERT", record("shop-blue", Region="eu-west-1"), "InvalidInput", "more than one"),
        ("UPSERT", record("shop-blue", AliasTarget=ALIAS), "InvalidInput", "more than one"),
        ("UPSERT", record("shop-blue", ResourceRecords=None), "InvalidInput", "but found none"),
        (
            "UPSERT",
            record("shop-blue", ResourceRecords=[{"Value": "2001:db8::1"}]),
            "InvalidChangeBatch",
            "not a valid IPv4 address",
        ),
        (
            "UPSERT",
            record(Type="CNAME", ResourceRecords=[{"Value": "x.example"}]),
            "InvalidChangeBatch",
            "conflicts with other records",
        ),
        ("UPSERT", record(Name="shop.example.org"), "InvalidChangeBatch", "not permitted in zone"),
        (
            "UPSERT",
            record(Name="shop.example", Type="CNAME", ResourceRecords=[{"Value": "x.example"}]),
            "InvalidChangeBatch",
            "not permitted at apex",
        ),
        (
            "UPSERT",
            record(
                Name="alias.shop.example", TTL=None, ResourceRecords=None,
                AliasTarget={**ALIAS, "HostedZoneId": "Z1234567890", "DNSName": "no.shop.example"},
            ),
            "InvalidChangeBatch",
            "but that target was not found",
        ),
    ],
)  # fmt: skip
async def test_what_is_wrong_refuses_the_whole_batch(
    action: str, wanted: dict[str, Any], code: str, words: str
) -> None:
    fake = shop()
    before = fake.snapshot()
    right = record(Name="other.shop.example")
    async with fake:
        with pytest.raises(ClientError) as raised:
            await change(fake, ("UPSERT", right), (action, wanted))
    assert raised.value.response["Error"]["Code"] == code
    assert words in raised.value.response["Error"]["Message"]
    assert fake.snapshot() == before
    assert fake.effective == []


async def test_what_a_batch_asks_for_twice_is_refused() -> None:
    fake = shop()
    async with fake:
        with pytest.raises(ClientError, match="invalid set of changes"):
            await change(
                fake,
                ("UPSERT", record("shop-blue")),
                ("UPSERT", record("shop-blue", Weight=2)),
            )


async def test_a_change_is_pending_and_then_in_sync() -> None:
    fake = shop()
    fake.pending_s = 0.15
    async with fake:
        about = (await change(fake, ("UPSERT", record("shop-blue"))))["ChangeInfo"]
        assert about["Status"] == "PENDING"
        assert [one.weight for one in fake.records()] == [1, 0]
        assert [one.weight for one in fake.in_sync_records()] == [100, 0]
        async with asyncio.timeout(5):
            while about["Status"] == "PENDING":
                about = (await ask(fake, "get_change", Id=about["Id"]))["ChangeInfo"]
        assert [one.weight for one in fake.in_sync_records()] == [1, 0]


@pytest.mark.parametrize(
    ("operation", "parameters", "code"),
    [
        ("get_change", {"Id": "C0NE"}, "NoSuchChange"),
        ("get_hosted_zone", {"Id": "Z0NE"}, "NoSuchHostedZone"),
        ("list_resource_record_sets", {"HostedZoneId": "Z0NE"}, "NoSuchHostedZone"),
        (
            "list_resource_record_sets",
            {"HostedZoneId": "Z1234567890", "StartRecordType": "A"},
            "InvalidInput",
        ),
    ],
)
async def test_what_there_is_not_is_said(
    operation: str, parameters: dict[str, Any], code: str
) -> None:
    async with shop() as fake:
        with pytest.raises(ClientError) as raised:
            await ask(fake, operation, **parameters)
    assert raised.value.response["Error"]["Code"] == code


async def test_record_sets_come_by_reversed_name_type_and_identifier() -> None:
    fake = shop("AAAA", "A")
    fake.put(
        record(Name="shop.example"),
        record(Name="a.zzz.shop.example"),
        record(Name="b.shop.example"),
    )
    fake.weighted("*.shop.example", "A", {"shop-green": 1, "shop-blue": 1}, ADDRESSES["A"])
    async with fake:
        answer = await ask(fake, "list_resource_record_sets", HostedZoneId=fake.zone_id)
    assert [
        (one["Name"], one["Type"], one.get("SetIdentifier")) for one in answer["ResourceRecordSets"]
    ] == [
        ("shop.example.", "A", None),
        ("\\052.shop.example.", "A", "shop-blue"),
        ("\\052.shop.example.", "A", "shop-green"),
        ("b.shop.example.", "A", None),
        ("www.shop.example.", "A", "shop-blue"),
        ("www.shop.example.", "A", "shop-green"),
        ("www.shop.example.", "AAAA", "shop-blue"),
        ("www.shop.example.", "AAAA", "shop-green"),
        ("a.zzz.shop.example.", "A", None),
    ]
    assert fake.records()[1].name == "*.shop.example."
