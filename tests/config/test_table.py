"""The routing table's file: read by programs before and after an upgrade."""

import json

import pytest

from turnout.config.table import (
    RoutingTable,
    TableError,
    TableLimits,
    TableServer,
    TableService,
    TableUpstream,
    decode,
    encode,
)

BLUE = TableUpstream("blue", (TableServer("127.0.0.1:1", "127.0.0.1:1", 3),))
TABLE = RoutingTable(
    number=7,
    services=(TableService("shop", 1, ("a",), "/", (BLUE, TableUpstream("green", ()))),),
    limits=TableLimits(connections=12),
)


def test_a_table_is_what_it_was() -> None:
    assert decode(encode(TABLE)) == TABLE


def test_what_a_newer_program_has_added_is_passed_over() -> None:
    document = json.loads(encode(TABLE))
    document["new"] = 1
    for part in ("timeouts", "limits", "pool"):
        document[part]["new"] = 1
    document["services"][0]["new"] = 1
    document["services"][0]["upstreams"][0]["servers"][0]["new"] = 1
    assert decode(json.dumps(document).encode()) == TABLE


def test_what_an_older_program_did_not_know_has_its_default() -> None:
    document = json.loads(encode(TABLE))
    del document["limits"]["headers"], document["timeouts"]["header_s"]
    del document["services"][0]["retry_attempts"]
    assert decode(json.dumps(document).encode()) == TABLE


@pytest.mark.parametrize(
    "document",
    [b"[]", b"{", b'{"format": 9}', b'{"format": 1, "number": 1}', b'{"format": 1, "limits": 3}'],
)
def test_what_is_no_table_is_refused(document: bytes) -> None:
    with pytest.raises(TableError):
        decode(document)


def test_a_part_that_is_no_object_is_refused() -> None:
    document = json.loads(encode(TABLE))
    document["limits"] = 3
    with pytest.raises(TableError, match="table 7 is not whole"):
        decode(json.dumps(document).encode())
