"""The scan for fields, and what Connection may name."""

import re

import pytest

from turnout.proxy.fields import (
    Refused,
    connection_options,
    drop_named,
    field_fault,
    field_scan,
    is_protected,
)
from turnout.proxy.scoreboard import REFUSED_REASONS


def test_a_scan_finds_its_fields_in_any_case_and_nothing_else() -> None:
    scan = field_scan(b"te x-a_b cut", rb"[Tt][Ee]@te|[Xx]-(?i:a_b)@ab|[Cc](?i:ut)@")
    head = (
        b"GET /te: HTTP/1.1\r\nTE: 1\r\nTea: 2\r\nx-te: 3\r\nX-A_B:\t 4 5 \r\n"
        b"cuT:6\r\nA: te: 7\r\nte:8\r\n\r\n"
    )
    found = [(m.lastgroup, m[m.lastgroup] if m.lastgroup else m[0]) for m in scan.finditer(head)]
    assert found == [("te", b"1"), ("ab", b"4 5 "), (None, b"\ncuT:6"), ("te", b"8")]


def test_a_name_without_a_branch_is_a_mistake_at_import() -> None:
    with pytest.raises(ValueError, match="no branch for b'tee:'"):
        field_scan(b"te tee", rb"[Tt][Ee]@te")
    with pytest.raises(ValueError, match="no branch for b'TE:'"):
        field_scan(b"te", rb"te@te")


def test_options_are_read_from_all_connection_fields() -> None:
    assert connection_options([b" Close ,,x-A\t", b"", b"UPGRADE"], 400) == {
        b"close",
        b"x-a",
        b"upgrade",
    }
    for value in (b"a b", b"a;b", b"\xe4", b"a, b c"):
        with pytest.raises(Refused) as caught:
            connection_options([value], 502)
        assert (caught.value.status, caught.value.detail) == (502, "bad_connection")


@pytest.mark.parametrize(
    ("name", "protected"),
    [
        (b"host", True),
        (b"content-length", True),
        (b"content_length", True),
        (b"x-forwarded-for", True),
        (b"x_forwarded_for", True),
        (b"x-forwarded-whatever", True),
        (b"sec-websocket-key", True),
        (b"authorization", True),
        (b"x-real-ip", True),
        (b"x-private", False),
        (b"server-timing", False),
        (b"grpc-status", False),
        (b"x-forwarded", False),
    ],
)
def test_which_fields_are_protected(name: bytes, protected: bool) -> None:
    assert is_protected(name) == protected


def test_named_fields_are_dropped_and_the_rest_keeps_its_order() -> None:
    lines = b"GET / HTTP/1.1\r\nA: 1\r\nX-B: 2\r\nx-b: 3\r\nX-BC: 4\r\n"
    assert drop_named(lines, {b"x-b", b"close"}) == b"GET / HTTP/1.1\r\nA: 1\r\nX-BC: 4\r\n"
    assert drop_named(lines, {b"close", b"keep-alive"}) is lines


@pytest.mark.parametrize(
    ("head", "detail"),
    [
        (b"GET / HTTP/1.1\r\nA: \x00\r\n\r\n", "control_byte"),
        (b"GET / HTTP/1.1\r\nA: b\rc\r\n\r\n", "bare_cr_or_lf"),
        (b"GET / HTTP/1.1\r\nA: b\n\r\n\r\n", "bare_cr_or_lf"),
        (b"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", "obs_fold"),
        (b"GET / HTTP/1.1\r\nA : b\r\n\r\n", "bad_field_name"),
        (b"GET / HTTP/1.1\r\nA: b\r\n\r\n", "bad_head"),
    ],
)
def test_a_fault_is_named(head: bytes, detail: str) -> None:
    fault = field_fault(head, 400)
    assert (fault.status, fault.detail, fault.reason) == (400, detail, "malformed_request")


def test_every_reason_is_counted_somewhere() -> None:
    from turnout.proxy import fields

    assert set(fields._COUNTED_AS.values()) | {"malformed_request"} <= set(REFUSED_REASONS)
    assert all(re.fullmatch("[a-z_0-9]+", detail) for detail in fields._COUNTED_AS)
