"""A figure of a plan's costs with the arithmetic behind it, and numbers as text."""

from dataclasses import dataclass
from typing import Literal

Unit = Literal["samples", "tokens", "FLOP", "bytes", "s", "FLOP/s", "images/s", "parameters"]
GIB = 2**30


@dataclass(frozen=True)
class Figure:
    """One figure. `how`: its formula with the numbers put in, or the place that it is from. None is unknown."""

    name: str
    value: float | None
    unit: Unit
    how: str

    @property
    def text(self) -> str:
        """For people: '1.2 TFLOP', '3.4 GiB', 'unknown'."""
        return quantity(self.value, self.unit)


def quantity(value: float | None, unit: Unit) -> str:
    """A number with its unit: '2.5M', '1.2 EFLOP', '3.4 GiB', '2.1 h'; '?' if it is not known."""
    if value is None:
        return "?"
    if unit == "bytes":
        return _scaled(value, 1024, ("B", "KiB", "MiB", "GiB", "TiB", "PiB"))
    if unit == "s":
        return hours(value)
    if unit in ("samples", "tokens", "parameters"):
        return _scaled(value, 1000, ("", "K", "M", "B", "T")).replace(" ", "")
    return _scaled(value, 1000, tuple(f"{prefix}{unit}" for prefix in ("", "K", "M", "G", "T", "P", "E", "Z")))


def hours(seconds: float) -> str:
    """A time: '12 s', '3.4 min', '5.6 h', '12 days 3 h'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.1f} min"
    if seconds < 72 * 3600:
        return f"{seconds / 3600:.1f} h"
    whole = round(seconds / 3600)
    return f"{whole // 24} days {whole % 24} h"


def _scaled(value: float, base: int, units: tuple[str, ...]) -> str:
    number, place = float(value), 0
    while abs(number) >= base and place < len(units) - 1:
        number, place = number / base, place + 1
    digits = 0 if place == 0 or number >= 99.95 else 1 if number >= 9.995 else 2
    return f"{number:.{digits}f} {units[place]}".strip()
