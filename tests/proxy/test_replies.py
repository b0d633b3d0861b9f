"""Every answer of Turnout's own is well-formed and says why."""

import re

import httptools
import pytest

from turnout.proxy import replies
from turnout.proxy.fields import Refused
from turnout.proxy.framing import BodyKind
from turnout.proxy.replies import REFUSALS_REMEMBERED, Reply, refused, render
from turnout.proxy.response_head import parse_response

ALL = {name: reply for name, reply in vars(replies).items() if isinstance(reply, Reply)}
HEALTH = {"HEALTHY", "LEAVING"}

RFC_9209 = {
    "dns_timeout", "dns_error", "destination_not_found", "destination_unavailable",
    "destination_ip_prohibited", "destination_ip_unroutable", "connection_refused",
    "connection_terminated", "connection_timeout", "connection_read_timeout",
    "connection_write_timeout", "connection_limit_reached", "tls_protocol_error",
    "tls_certificate_error", "tls_alert_received", "http_request_error", "http_request_denied",
    "http_response_incomplete", "http_response_header_section_size",
    "http_response_header_size", "http_response_body_size", "http_response_trailer_section_size",
    "http_response_trailer_size", "http_response_transfer_coding",
    "http_response_content_coding", "http_response_timeout", "http_upgrade_failed",
    "http_protocol_error", "proxy_internal_response", "proxy_internal_error",
    "proxy_configuration_error", "proxy_loop_detected",
}  # fmt: skip
"""The error types that are registered (section 2.3)."""


def fields_of(answer: bytes) -> dict[bytes, bytes]:
    head = answer.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    pairs = [line.partition(b": ") for line in head]
    fields = {name: value for name, _, value in pairs}
    assert len(fields) == len(head), "a field is repeated"
    return fields


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_answer_is_read_by_both_parsers_and_carries_one_line(name: str) -> None:
    reply = ALL[name]
    answer, size = render(reply, close=False, request_id=b"id-1", date=b"now")
    head, _, body = answer.partition(b"\r\n\r\n")
    read = parse_response(head + b"\r\n\r\n", request_method=b"GET")
    assert read.status == reply.status
    assert (read.body, read.content_length) == (BodyKind.LENGTH, len(body))
    assert size == len(body)
    assert re.fullmatch(rb"[ -~]+\n", body)
    fields = fields_of(answer)
    assert fields[b"Content-Type"] == b"text/plain; charset=utf-8"
    assert fields[b"X-Request-Id"] == b"id-1"
    assert fields[b"Date"] == b"now"
    assert b"Connection" not in fields
    whole: list[bytes] = []

    class Client:
        def on_body(self, data: bytes) -> None:
            whole.append(data)

    httptools.HttpResponseParser(Client()).feed_data(answer)
    assert b"".join(whole) == body


@pytest.mark.parametrize("name", sorted(ALL.keys() - HEALTH))
def test_every_answer_says_why_in_the_terms_of_rfc_9209(name: str) -> None:
    fields = fields_of(render(ALL[name], close=True)[0])
    found = re.fullmatch(rb"turnout; error=([a-z_]+)", fields[b"Proxy-Status"])
    assert found is not None
    assert found[1].decode() in RFC_9209
    assert (b"Retry-After" in fields) == (ALL[name].status == 503)


def test_health_answers_are_not_errors() -> None:
    assert render(replies.HEALTHY, close=False)[0] == (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 3\r\n"
        b"Cache-Control: no-store\r\n\r\nok\n"
    )
    leaving = fields_of(render(replies.LEAVING, close=False)[0])
    assert b"Proxy-Status" not in leaving and b"Retry-After" not in leaving


def test_a_head_gets_no_body_but_its_length() -> None:
    answer, size = render(replies.NO_SERVICE, head_only=True, close=False)
    assert size == 0
    assert answer.endswith(b"\r\n\r\n")
    assert int(fields_of(answer)[b"Content-Length"]) == len(replies.NO_SERVICE.body)


@pytest.mark.parametrize(
    ("close", "minor", "connection"),
    [(True, 1, b"close"), (True, 0, b"close"), (False, 1, None), (False, 0, b"keep-alive")],
)
def test_the_client_is_told_whether_its_connection_goes_on(
    close: bool, minor: int, connection: bytes | None
) -> None:
    answer, _ = render(replies.NO_SERVER, close=close, version_minor=minor)
    assert fields_of(answer).get(b"Connection") == connection


@pytest.mark.parametrize("status", [400, 405, 414, 417, 431, 501, 505])
def test_a_refused_request_gets_its_own_status_and_sentence(status: int) -> None:
    fault = Refused(status, "some_detail", "This is why.")
    reply = refused(fault)
    assert (reply.status, reply.reason, reply.body) == (status, "some_detail", b"This is why.\n")
    assert refused(fault) is reply
    fields = fields_of(render(reply, close=True)[0])
    assert fields[b"Proxy-Status"] == b"turnout; error=http_request_error"
    # RFC 9110, section 15.5.6: a 405 names what is allowed.
    assert (b"Allow" in fields) == (status == 405)


def test_refusals_are_not_remembered_for_ever() -> None:
    for number in range(REFUSALS_REMEMBERED + 10):
        assert refused(Refused(400, "x", f"Number {number}.")).body == b"Number %d.\n" % number
    assert len(replies._refusals) <= REFUSALS_REMEMBERED


def test_the_statuses_that_are_promised_are_there() -> None:
    assert {reply.status for reply in ALL.values()} >= {
        200, 400, 404, 408, 413, 414, 431, 500, 502, 503, 504,
    }  # fmt: skip
