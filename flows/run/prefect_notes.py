"""A run's artifacts in the Prefect UI: a note per step, a table of all steps, progress bars of long steps."""

import base64
import contextvars
import io
import re
import time
from collections.abc import Callable
from typing import Any

import httpx
from PIL import Image
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.exceptions import PrefectException
from prefect.settings import PREFECT_API_REQUEST_TIMEOUT, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from flows.run.event_log import events_folder, events_path
from flows.run.job_log import Log
from flows.run.run_file import RunRecord
from flows.run.settings import Settings
from flows.run.step_run import StepResult
from pipeline.artifacts.manifest import Manifest, plural
from pipeline.artifacts.paths import is_url
from pipeline.artifacts.spec import short
from pipeline.plan.planner import PlannedStep
from pipeline.schemas import CONTACT_SHEET

PROGRESS_SECONDS = 5.0
NOTE_PIXELS = 1200
NOTE_SECONDS = 10.0
"""Longest time that the server may take for one note."""


def attempt_note(leave: Callable[[], None], log: Log) -> bool:
    """Leave a note; if the Prefect server does not take it, log that: a note must neither fail nor delay a step.

    Without this, Prefect's client would try again with pauses that grow to minutes. Returns True if it was left.
    """
    try:
        with temporary_settings(updates={PREFECT_CLIENT_MAX_RETRIES: 0, PREFECT_API_REQUEST_TIMEOUT: NOTE_SECONDS}):
            leave()
    except (httpx.HTTPError, PrefectException) as error:
        log(f"a note could not be left in the Prefect UI: {type(error).__name__}: {error}")
        return False
    return True


class Notes:
    """The notes of a run's steps: those that the server did not take are left again at the end of the run."""

    def __init__(self) -> None:
        self._later: list[Callable[[], bool]] = []

    def leave(self, note: Callable[[], None], log: Log) -> None:
        """Leave a note, or keep it for the end of the run."""
        if not attempt_note(note, log):
            context = contextvars.copy_context()  # the note belongs to the task run that is the present one now
            self._later.append(lambda: context.run(attempt_note, note, log))

    def leave_again(self) -> None:
        """Leave the notes that were kept; ends with the first that the server does not take: each may take seconds."""
        all(note() for note in self._later)


def artifact_key(*parts: str) -> str:
    """A key that Prefect accepts: lowercase letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


def step_note(step: PlannedStep, result: StepResult, settings: Settings) -> str:
    """The note of one step as Markdown: its artifact, its rows in, out and rejected, and its duration."""
    lines = [f"## {step.key}: {result.ending}", "", step.step.summary, ""]
    rows: list[tuple[str, str]] = [("artifact", f"`{step.ref}`"), ("id", f"`{step.id}`")]
    if step.attempt:
        rows.append(("attempt", str(step.attempt)))
    if result.artifact is not None:
        rows += _manifest_rows(result.artifact.manifest)
    else:
        rows.append(("what happened", _cell(result.message)))
    if result.artifact is not None:
        rows.append(("folder", f"`{result.artifact.location()}`"))
        rows.append(("in a shell", f"`agevlm show {short(step.id)}`"))
    if result.job:
        rows.append(("Ray job", f"[{result.job}]({settings.job_page(result.job)})"))
    lines += ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
    if result.artifact is not None:
        lines += _details(result.artifact.manifest)
    return "\n".join(lines) + "\n"


def _manifest_rows(manifest: Manifest) -> list[tuple[str, str]]:
    counts, made = manifest.counts, manifest.provenance
    units = plural(counts.unit)
    rows = [("in", f"{counts.rows_in} {units}"), ("out", f"{counts.rows_out} {units}")]
    rows.append(("rejected", f"{counts.total_rejected} {units}"))
    if counts.not_selected:
        rows.append(("not selected", f"{counts.not_selected} {units}"))
    if made.origin is not None and made.origin.flow_run_page:
        rows.append(("made by flow run", f"[{made.origin.flow_run}]({made.origin.flow_run_page})"))
    return [
        *rows,
        ("seconds", f"{made.seconds:.1f}"),
        ("made", _cell(f"{made.started} on {made.host or 'an unnamed host'} ({made.device})")),
        ("files", f"{len(manifest.files)}, {manifest.bytes / 1e6:.2f} MB"),
    ]


def _details(manifest: Manifest) -> list[str]:
    lines: list[str] = []
    if manifest.counts.rejected:
        lines += ["", "### Rejected", "", f"| reason | {plural(manifest.counts.unit)} |", "|---|---|"]
        by_count = sorted(manifest.counts.rejected.items(), key=lambda item: (-item[1], item[0]))
        lines += [f"| {_cell(reason)} | {number} |" for reason, number in by_count]
    shown = {name: text for name, value in manifest.statistics.items() if (text := _statistic(value))}
    if shown:
        lines += ["", "### Statistics", "", "| | |", "|---|---|"]
        lines += [f"| {_cell(name)} | {text} |" for name, text in shown.items()]
    if manifest.parents:
        lines += ["", "### Made from", "", "| input | artifact |", "|---|---|"]
        lines += [f"| {name} | `{parent.ref}` |" for name, parent in sorted(manifest.parents.items())]
    return lines


def _statistic(value: Any) -> str:
    """A statistic as text, if it is small enough for a table; '' if not."""
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int | str):
        return _cell(str(value)[:200])
    if isinstance(value, dict) and 0 < len(value) <= 8:
        parts = {name: _statistic(item) for name, item in value.items() if not isinstance(item, dict | list)}
        return ", ".join(f"{_cell(str(name))} {text}" for name, text in parts.items())
    return ""


def _cell(text: str) -> str:
    """Text for one cell of a table: on one line, with everything escaped that Markdown or HTML would read."""
    plain = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return " ".join(re.sub(r"([\\`*\[\]|!~])", r"\\\1", plain).split())


def steps_table(record: RunRecord) -> list[dict[str, Any]]:
    """One row per step of a run."""
    return [
        {
            "step": step.key,
            "state": step.state,
            "artifact": f"{step.kind}/{step.name}/{short(step.id)}",
            "in": step.rows_in,
            "out": step.rows_out,
            "unit": step.unit,
            "rejected": sum(step.rejected.values()),
            "seconds": step.seconds,
            "job": step.job,
            "message": step.message if step.state in ("failed", "skipped", "cancelled", "crashed") else "",
        }
        for step in record.steps
    ]


def run_note(record: RunRecord, settings: Settings) -> str:
    """The note of a run as Markdown: its links, and one row for each step."""
    events = events_path(record.flow_run_id) if not is_url(settings.store) else events_folder(record.flow_run_id)
    rows = [
        ("recipe", record.recipe),
        ("state", record.state),
        ("Ray's jobs", f"[dashboard]({settings.jobs_url}/#/jobs), column Name: `{record.recipe} STEP ...`"),
        ("events", f"`{settings.store}/{events}`, or `agevlm events {record.flow_run or record.flow_run_id}`"),
    ]
    if record.report is not None:
        rows.append(("report", f"`{record.report}`"))
    lines = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows), ""]
    lines += ["| step | state | artifact | Ray job |", "|---|---|---|---|"]
    for step in record.steps:
        job = f"[{step.job}]({settings.job_page(step.job)})" if step.job else ""
        lines.append(f"| {step.key} | {step.state} | `{step.kind}/{step.name}/{short(step.id)}` | {job} |")
    return "\n".join(lines) + "\n"


def leave_run_note(record: RunRecord, settings: Settings) -> None:
    """Put the links of a run into the Prefect UI: at its start, and again at its end."""
    create_markdown_artifact(
        run_note(record, settings),
        key=artifact_key(record.recipe, "run"),
        description=f"{record.recipe} {record.flow_run}: links to its jobs, artifacts and events",
    )


def leave_step_note(recipe: str, step: PlannedStep, result: StepResult, settings: Settings) -> None:
    """Put the note of a step into the Prefect UI; the notes of all runs have one key, and the UI lists them there."""
    create_markdown_artifact(
        step_note(step, result, settings),
        key=artifact_key(recipe, step.key),
        description=f"{step.key} of {recipe}: {result.ending} ({step.ref})",
    )


def leave_contact_sheet(recipe: str, step: PlannedStep, result: StepResult) -> None:
    """Put the contact sheet of masks into the Prefect UI, if the step has one: the picture is part of the note."""
    if result.artifact is None or CONTACT_SHEET not in result.artifact.files:
        return
    with result.artifact.open(CONTACT_SHEET) as stream:
        picture = small_picture(stream.read())
    create_markdown_artifact(
        f"## Contact sheet of {step.key}\n\n![Contact sheet]({picture})\n\n"
        f"In full size: `{result.artifact.location(CONTACT_SHEET)}`\n",
        key=artifact_key(recipe, step.key, "contact-sheet"),
        description=f"Contact sheet of {result.artifact.ref}: best, random, worst and stopped masks",
    )


def small_picture(content: bytes) -> str:
    """An image file as a JPEG data URI of at most NOTE_PIXELS a side: the server keeps notes in its database."""
    with Image.open(io.BytesIO(content)) as picture:
        shown = picture.convert("RGB")
    shown.thumbnail((NOTE_PIXELS, NOTE_PIXELS), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    shown.save(buffer, "JPEG", quality=70, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def leave_summary(record: RunRecord) -> None:
    """Put the table of steps and the location of the report into the Prefect UI."""
    create_table_artifact(
        steps_table(record), key=artifact_key(record.recipe, "steps"), description=f"Steps of {record.recipe}"
    )
    if record.report is not None:
        create_markdown_artifact(
            f"## Report of {record.recipe}\n\nOpen this file in a browser:\n\n`{record.report}`\n",
            key=artifact_key(record.recipe, "report-page"),
            description=f"Location of the report of {record.recipe}",
        )


class ProgressBar:
    """A progress artifact of a long step: made at its first progress, updated every few seconds at most."""

    def __init__(self, recipe: str, key: str) -> None:
        self._key, self._name = artifact_key(recipe, key, "progress"), key
        self._artifact: Any = None
        self._since = time.monotonic()

    def show(self, done: int, total: int, line: str) -> None:
        """Show the step's progress, unless the bar was updated a moment ago."""
        now = time.monotonic()
        if now - self._since < PROGRESS_SECONDS:
            return
        self._since = now
        percent = round(100 * min(done, total) / total, 1) if total else 0.0
        text = f"{self._name}: {line}"
        if self._artifact is None:
            self._artifact = create_progress_artifact(percent, key=self._key, description=text)
        else:
            update_progress_artifact(self._artifact, percent, description=text)

    def close(self) -> None:
        """Fill the bar of a step that is done, if it has one."""
        if self._artifact is not None:
            update_progress_artifact(self._artifact, 100.0, description=f"{self._name}: done")
