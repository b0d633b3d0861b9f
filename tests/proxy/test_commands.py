"""Messages and frames: what is said is understood, what is not is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.config.table import RoutingTable, TableError
from turnout.config.table import decode as decode_table
from turnout.config.table import encode as encode_table
from turnout.proxy import commands
from turnout.proxy.commands import FrameReader, Kind, ProtocolError

MESSAGES: list[commands.Message] = [
    commands.Hello(1, 2, 3, "abc"),
    commands.Prepare(17),
    commands.Prepared(17, "no such file"),
    commands.Poke(),
    commands.Cut(1, 2, 1, [0, 1], "drain_deadline", 9),
    commands.Done(1, [{"method": "GET", "path": "/slow"}]),
    commands.RetireServers(4, 1, 0, ["127.0.0.1:1"], 30.0),
    commands.Passive(3, 10, 2, 1, "refused"),
    commands.ReplaceWorker(1, 2, "hung"),
    commands.Answer(1, "address in use"),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_is_read_as_it_was_written(message: commands.Message) -> None:
    assert commands.decode(commands.encode(message)) == message


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"{}",
        b'{"v":1,"is":"Nothing"}',
        b'{"v":2,"is":"Poke"}',
        b'{"v":1,"is":"Prepare"}',
        b"\xff",
    ],
)
def test_what_is_not_a_message_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        commands.decode(payload)


def test_a_field_that_a_newer_program_added_is_passed_over() -> None:
    assert commands.decode(b'{"v":1,"is":"Prepare","number":3,"new":1}') == commands.Prepare(3)


@given(
    st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=300)), max_size=6),
    st.lists(st.integers(1, 50), min_size=1, max_size=40),
)
def test_frames_are_found_however_the_bytes_arrive(
    frames: list[tuple[int, bytes]], cuts: list[int]
) -> None:
    stream = b"".join(commands.frame(payload, kind) for kind, payload in frames)
    reader = FrameReader()
    found: list[tuple[int, bytes]] = []
    position = turn = 0
    while position < len(stream):
        size = cuts[turn % len(cuts)]
        found += reader.feed(stream[position : position + size])
        position += size
        turn += 1
    assert found == frames


def test_a_frame_beyond_the_limit_is_refused() -> None:
    head = commands.FRAME.pack(commands.FRAME_BYTES_MAX + 1, Kind.MESSAGE)
    with pytest.raises(ProtocolError, match="limit"):
        list(FrameReader().feed(head))


def test_the_generation_is_the_same_for_the_same_contract() -> None:
    assert commands.program_generation() == commands.program_generation()
    assert len(commands.program_generation()) == 16


@pytest.mark.parametrize("data", [b"", b"{}", b'{"format":9}', b'{"format":1,"number":1}'])
def test_a_table_that_is_not_whole_is_refused(data: bytes) -> None:
    with pytest.raises(TableError):
        decode_table(data)


def test_a_table_is_read_as_it_was_written() -> None:
    table = RoutingTable(number=9, services=(), health_paths={"127.0.0.1:80": "/up"})
    assert decode_table(encode_table(table)) == table
