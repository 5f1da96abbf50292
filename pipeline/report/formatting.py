"""Numbers, times and texts as the page shows them."""

from collections.abc import Iterable
from datetime import datetime

from pipeline.artifacts import manifest

LONGEST_TEXT = 240
"""Characters of a question or an answer that are shown."""
CUT = f"Texts of more than {LONGEST_TEXT} characters are cut and end in \u2026; the artifacts hold them whole."


def clip(text: str, limit: int = LONGEST_TEXT) -> str:
    """A text as it is shown: one of more than `limit` characters ends in an ellipsis."""
    return text if len(text) <= limit else f"{text[: limit - 1].rstrip()}\u2026"


def cut_note(*texts: str) -> str:
    """CUT, if `clip` shortens any of these texts, else ''."""
    return f" {CUT}" if any(len(text) > LONGEST_TEXT for text in texts) else ""


def capital(text: str) -> str:
    """The text with a capital first letter."""
    return f"{text[:1].upper()}{text[1:]}"


def duration(seconds: float) -> str:
    """'0.4 s', '12 s', '3 min 20 s', '2 h 5 min'."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def short_duration(seconds: float) -> str:
    """A duration in one unit: '3 min', '2.1 h'."""
    if seconds < 120:
        return duration(seconds) if seconds < 60 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def size(number: float) -> str:
    """Bytes in kB, MB or GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" or number >= 100 else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def count(number: int) -> str:
    """A number with thin spaces between thousands."""
    return f"{number:,}".replace(",", "\u202f")


def short_count(number: int) -> str:
    """A number, from 100 000 on in thousands or millions: '150k', '2.5M'."""
    if number < 100_000:
        return count(number)
    return f"{number / 1000:.0f}k" if number < 999_500 else f"{number / 1e6:.3g}M"


def plural(number: int, unit: str) -> str:
    """'1 query', '3 queries', '2 records'."""
    return f"{count(number)} {unit if number == 1 else manifest.plural(unit)}"


def share(part: float | None, whole: float | None = 1) -> str:
    """A share in per cent; a dash where there is no whole. Only all is 100 %, and only none is 0 %."""
    if part is None or not whole:
        return "\u2013"
    percent = 100 * part / whole
    near_end = 0 < percent < 1 or 99 < percent < 100
    return f"{min(max(percent, 0.1), 99.9):.1f}\u202f%" if near_end else f"{percent:.0f}\u202f%"


def score(value: float | None, digits: int = 2) -> str:
    """A number between 0 and 1; a dash where there is none."""
    return "\u2013" if value is None else f"{value:.{digits}f}"


def signed(value: float, digits: int = 2) -> str:
    """A difference with its sign; one that rounds to zero has none."""
    text = f"{abs(value):.{digits}f}"
    sign = "+" if value > 0 else "\u2212"
    return text if float(text) == 0 else sign + text


def moment(value: datetime | str) -> str:
    """A time to the second, in UTC."""
    when = datetime.fromisoformat(value) if isinstance(value, str) else value
    return f"{when:%Y-%m-%d %H:%M:%S} UTC"


def reasons_text(reasons: Iterable[tuple[str, int]]) -> str:
    """'reason 3, other 1'; a number stays on the line of its reason."""
    return ", ".join(f"{reason or 'no reason given'}\u00a0{count(number)}" for reason, number in reasons)
