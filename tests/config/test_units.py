"""Durations, sizes and shares: read exactly, written as they are read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.config.units import (
    format_duration,
    format_fraction,
    format_size,
    parse_duration,
    parse_fraction,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("30s", 30.0),
        ("1.5s", 1.5),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("2d", 172_800.0),
        ("0", 0.0),
        ("0s", 0.0),
        (" 1s ", 1.0),
        ("0.3s", 0.3),
    ],
)
def test_a_duration_is_read_as_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("30", "it needs a unit. Write 30s"),
        ("1.5", "it needs a unit. Write 1.5s"),
        ("", "expected a duration with a unit (ms, s, m, h, d), such as 30s"),
        ("-1s", "expected a duration with a unit (ms, s, m, h, d), such as 30s"),
        ("30 s", "expected a duration with a unit (ms, s, m, h, d), such as 30s"),
        ("30sec", "expected a duration with a unit (ms, s, m, h, d), such as 30s"),
        ("٣s", "expected a duration with a unit (ms, s, m, h, d), such as 30s"),
        ("0.5ms", "expected a whole number of milliseconds, such as 1500ms"),
    ],
)
def test_a_wrong_duration_says_what_to_write(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r".") as raised:
        parse_duration(text)
    assert str(raised.value) == message


@given(st.integers(0, 10**12))
def test_every_millisecond_survives_writing_and_reading(milliseconds: int) -> None:
    seconds = milliseconds / 1000
    assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0"), (0.25, "250ms"), (90, "90s"), (3600, "1h"), (86400, "1d"), (1.5, "1500ms")],
)
def test_a_duration_is_written_in_its_largest_exact_unit(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("512B", 512),
        ("32KiB", 32_768),
        ("1.5MiB", 1_572_864),
        ("10MB", 10_000_000),
        ("2GiB", 2_147_483_648),
        ("1KB", 1_000),
    ],
)
def test_a_size_is_read_as_bytes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("64", "it needs a unit. Write 64B"),
        ("64K", "expected a size with a unit (B, KiB, MiB, GiB), such as 64KiB"),
        ("64kib", "expected a size with a unit (B, KiB, MiB, GiB), such as 64KiB"),
        ("0.3B", "expected a whole number of bytes, such as 1536B"),
    ],
)
def test_a_wrong_size_says_what_to_write(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r".") as raised:
        parse_size(text)
    assert str(raised.value) == message


@given(st.integers(0, 10**15))
def test_every_size_survives_writing_and_reading(size: int) -> None:
    assert parse_size(format_size(size)) == size


@given(st.integers(0, 10_000))
def test_every_fraction_survives_writing_and_reading(hundredths: int) -> None:
    fraction = hundredths / 10_000
    assert parse_fraction(format_fraction(fraction)) == fraction


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("20", "it needs a percent sign. Write 20%"),
        ("0.2", "it needs a percent sign. Write 0.2%"),
        ("101%", "expected a percentage from 0% to 100%, such as 20%"),
        ("-1%", "expected a percentage from 0% to 100%, such as 20%"),
    ],
)
def test_a_wrong_fraction_says_what_to_write(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r".") as raised:
        parse_fraction(text)
    assert str(raised.value) == message
