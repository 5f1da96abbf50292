"""The page: everything that was collected, put into the template. No element of it loads anything from elsewhere."""

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

FOLDER = Path(__file__).resolve().parent
TEMPLATE = "page.html.jinja"
LONGEST_TEXT = 240  # characters of a question or an answer that are shown
CUT = f"Texts of more than {LONGEST_TEXT} characters are cut and end in \u2026; the artifacts hold them whole."


def render(**values: Any) -> str:
    """Fill the template; every value is escaped unless it is Markup. A name that it lacks is an error."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        duration=duration,
        size=size,
        count=count,
        share=share,
        score=score,
        moment=moment,
        chips=chips,
        plural=plural,
        words=words,
        clip=clip,
        groupby_score=by_score,
    )
    return environment.get_template(TEMPLATE).render(
        style=Markup((FOLDER / "page.css").read_text(encoding="utf-8")),  # our own file: nothing to escape
        **values,
    )


def clip(text: str, limit: int = LONGEST_TEXT) -> str:
    """A text as it is shown: what is longer than `limit` characters ends in an ellipsis."""
    return text if len(text) <= limit else f"{text[: limit - 1].rstrip()}\u2026"


def cut(*texts: str) -> bool:
    """Whether `clip` shortens any of these texts."""
    return any(len(text) > LONGEST_TEXT for text in texts)


def by_score(scores: Iterable[Any]) -> list[list[Any]]:
    """Scores in groups of one benchmark and metric, in the order of their first."""
    groups: dict[tuple[str, str], list[Any]] = {}
    for item in scores:
        groups.setdefault((item.benchmark, item.metric), []).append(item)
    return list(groups.values())


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
    """As `duration`, in one unit."""
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
    """As `count`, from 100 000 on in thousands or millions: '150k', '2.5M'."""
    if number < 100_000:
        return count(number)
    return f"{number / 1000:.0f}k" if number < 999_500 else f"{number / 1e6:.3g}M"


def words(word: str) -> str:
    """The plural of a unit: 'queries', 'records'."""
    return f"{word[:-1]}ies" if word.endswith("ry") else f"{word}s"


def plural(number: int, word: str) -> str:
    """'1 query', '3 queries', '2 records'."""
    if number == 1:
        return f"1 {word}"
    return f"{count(number)} {words(word)}"


def share(part: float | None, whole: float | None = 1) -> str:
    """A share in per cent; a dash where there is no whole. Nothing but all is 100 %, and nothing but none is 0 %."""
    if part is None or not whole:
        return "\u2013"
    percent = 100 * part / whole
    near_end = 0 < percent < 1 or 99 < percent < 100
    return f"{min(max(percent, 0.1), 99.9):.1f}\u202f%" if near_end else f"{percent:.0f}\u202f%"


def score(value: float | None, digits: int = 2) -> str:
    """A number between 0 and 1; a dash where there is none."""
    return "\u2013" if value is None else f"{value:.{digits}f}"


def moment(value: datetime | str) -> str:
    """A time as people write it, in UTC."""
    when = datetime.fromisoformat(value) if isinstance(value, str) else value
    return f"{when:%Y-%m-%d %H:%M:%S} UTC"


def chips(reasons: Iterable[tuple[str, int]]) -> str:
    """'reason 3, other 1'; a number stays on the line of its reason."""
    return ", ".join(f"{reason or 'no reason given'}\u00a0{count(number)}" for reason, number in reasons)
