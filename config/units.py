"""Durations, sizes and shares as people write them: `30s`, `32KiB`, `20%`.

One grammar for the file, the command line and the control API, so that what one accepts
the others accept. Exact: the text is read as a decimal number and never passes through a
float on its way to the smallest unit.
"""

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

_MILLISECONDS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_BYTES: Final = {
    "B": 1,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
}
_DURATION: Final = re.compile(r"(?:[0-9]{1,12}(?:\.[0-9]{1,9})?(?:ms|s|m|h|d))+", re.ASCII)
_DURATION_PART: Final = re.compile(r"([0-9.]+)(ms|s|m|h|d)", re.ASCII)
_SIZE: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)(B|KB|MB|GB|KiB|MiB|GiB)", re.ASCII)
_NUMBER: Final = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,9})?", re.ASCII)
_PERCENT: Final = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,9})?)%", re.ASCII)

_RATE: Final = re.compile(r"([0-9]{1,9})\s*/\s*(s|min|h)", re.ASCII)
_SPANS: Final = {"s": 1.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class Rate:
    """So many in each such span of seconds."""

    count: int
    per_s: float

    @property
    def per_second(self) -> float:
        return self.count / self.per_s

    def __str__(self) -> str:
        unit = next(unit for unit, span in _SPANS.items() if span == self.per_s)
        return f"{self.count}/{unit}"


def parse_rate(text: str) -> Rate:
    """Read `1/min`, `20/s` or `5/h`. Raises ValueError that says what to write."""
    match = _RATE.fullmatch(text.strip())
    if match is None:
        raise ValueError("expected a whole number in a span (s, min, h), such as 1/min")
    return Rate(int(match[1]), _SPANS[match[2]])


def parse_duration(text: str) -> float:
    """Read `500ms`, `30s`, `5m`, `1h30m` or `2d` as seconds; `0` needs no unit.

    Raises ValueError that says what to write: for a bare number, the number with a unit;
    also for what is not a whole number of milliseconds.
    """
    text = text.strip()
    if text == "0":
        return 0.0
    if _NUMBER.fullmatch(text):
        raise ValueError(f"it needs a unit. Write {text}s")
    if not _DURATION.fullmatch(text):
        raise ValueError("expected a duration with a unit (ms, s, m, h, d), such as 30s")
    parts = _DURATION_PART.findall(text)
    total_ms = sum((Decimal(number) * _MILLISECONDS[unit] for number, unit in parts), Decimal(0))
    if total_ms != total_ms.to_integral_value():
        raise ValueError("expected a whole number of milliseconds, such as 1500ms")
    return int(total_ms) / 1000


def format_duration(seconds: float) -> str:
    """Write seconds as `parse_duration` reads them, in the largest unit that is exact."""
    total_ms = round(seconds * 1000)
    if total_ms == 0:
        return "0"
    for unit in ("d", "h", "m", "s", "ms"):
        if total_ms % _MILLISECONDS[unit] == 0:
            return f"{total_ms // _MILLISECONDS[unit]}{unit}"
    raise AssertionError("every whole number of milliseconds divides by one millisecond")


def parse_size(text: str) -> int:
    """Read `512B`, `32KiB`, `1.5MiB` (powers of 1024) or `10MB` (of 1000) as bytes.

    `0` needs no unit. Raises ValueError that says what to write.
    """
    text = text.strip()
    if text == "0":
        return 0
    if _NUMBER.fullmatch(text):
        raise ValueError(f"it needs a unit. Write {text}B")
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError("expected a size with a unit (B, KiB, MiB, GiB), such as 64KiB")
    size = Decimal(match[1]) * _BYTES[match[2]]
    if size != size.to_integral_value():
        raise ValueError("expected a whole number of bytes, such as 1536B")
    return int(size)


def format_size(size_bytes: int) -> str:
    """Write bytes as `parse_size` reads them, in the largest unit that is exact."""
    if size_bytes == 0:
        return "0"
    for unit in ("GiB", "MiB", "KiB"):
        if size_bytes % _BYTES[unit] == 0:
            return f"{size_bytes // _BYTES[unit]}{unit}"
    return f"{size_bytes}B"


def parse_fraction(text: str) -> float:
    """Read `20%` as 0.2; from 0% to 100%. `0` needs no unit. Raises ValueError."""
    text = text.strip()
    if text == "0":
        return 0.0
    if _NUMBER.fullmatch(text):
        raise ValueError(f"it needs a percent sign. Write {text}%")
    match = _PERCENT.fullmatch(text)
    if match is None or Decimal(match[1]) > 100:
        raise ValueError("expected a percentage from 0% to 100%, such as 20%")
    return float(Decimal(match[1]) / 100)


def format_fraction(fraction: float) -> str:
    """Write a fraction as `parse_fraction` reads it."""
    percent = Decimal(str(fraction)) * 100
    return f"{percent.normalize():f}%" if percent else "0"
