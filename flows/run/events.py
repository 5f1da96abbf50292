"""The table of events: every event of a run's event log, with its fields. docs/operate.md shows the same table."""

import re
from dataclasses import dataclass
from typing import Any

from pipeline.artifacts.spec import short

ERROR = re.compile(r"(?:[\w.]*\.)?(\w*(?:Error|Exception|Killed))\b:? ?(.*)", re.DOTALL)
Facts = dict[str, Any]
Types = type | tuple[type, ...]


@dataclass(frozen=True)
class EventKind:
    """One row of the table."""

    meaning: str
    fields: dict[str, Types]
    """Name -> type in JSON of each field that the event has beside 'time' and 'event'."""


NULL = type(None)
NUMBER = (int, float)
MADE: dict[str, Types] = {
    "step": str,
    "id": str,
    "artifact": str,
    "job": (str, NULL),
    "rows_in": int,
    "rows_out": int,
    "unit": str,
    "rejected": dict,
    "seconds": NUMBER,
    "bytes": int,
}
EVENTS: dict[str, EventKind] = {
    "run_start": EventKind(
        "a flow run begins",
        {
            "flow_run_id": str,
            "flow_run": str,
            "page": (str, NULL),
            "deployment": (str, NULL),
            "recipe": str,
            "parameters": dict,
        },
    ),
    "plan": EventKind("its plan: a list of {step, id, artifact, attempt, needs}", {"steps": list}),
    "step_start": EventKind("a step begins: its inputs exist and its CPUs and GPUs are free", {"step": str, "id": str}),
    "submit": EventKind("a Ray job was started for it", {"step": str, "job": str, "page": str}),
    "join": EventKind(
        "it follows a Ray job that another flow run started", {"step": str, "job": str, "page": str, "started_by": str}
    ),
    "retry": EventKind(
        "its Ray job failed for a cause that may pass; a new one follows after pause_seconds",
        {"step": str, "attempt": int, "cause": str, "job": (str, NULL), "pause_seconds": NUMBER},
    ),
    "publish": EventKind("its artifact was published; seconds are those of the step's own work", MADE),
    "cached": EventKind("its artifact existed already", MADE),
    "reject_budget": EventKind(
        "it rejected more rows than max_reject_share (limit) allows, or all; 'failed' follows",
        {"step": str, "rejected": dict, "rows": int, "limit": (*NUMBER, NULL)},
    ),
    "failed": EventKind("it failed", {"step": str, "job": (str, NULL), "error": str, "message": str}),
    "cancelled": EventKind("the flow run was cancelled while it ran", {"step": str, "message": str}),
    "crashed": EventKind("the flow process died while it ran; its Ray job goes on", {"step": str, "message": str}),
    "skipped": EventKind("it was not run, because a step that it needs failed", {"step": str, "message": str}),
    "cancelling": EventKind("the flow run is being cancelled", {"message": str}),
    "run_end": EventKind(
        "the flow run is over: completed, failed, cancelled or crashed",
        {"state": str, "message": str, "report": (str, NULL)},
    ),
}


def faults(event: Facts) -> list[str]:
    """Differences between an event and its row of the table; more fields than the row's are allowed."""
    kind = EVENTS.get(str(event.get("event")))
    if kind is None:
        return [f"there is no event {event.get('event')!r}"]
    found = [] if isinstance(event.get("time"), str) else ["it has no time"]
    found += [f"{name} is missing" for name in kind.fields if name not in event]
    return found + [
        f"{name} is {event[name]!r}"
        for name, wanted in kind.fields.items()
        if name in event and not isinstance(event[name], wanted)
    ]


def split_error(message: str) -> tuple[str, str]:
    """Class and text of an error's message 'DataError: the text'; 'StepError' if it names no class."""
    found = ERROR.match(message)
    return (found[1], found[2]) if found else ("StepError", message)


def line_of(event: Facts) -> str:
    """An event as one line for people: '16:03:12  publish        segment-pretrain  77000 of 77000 queries'."""
    shown = {name: value for name, value in event.items() if name not in ("time", "event", "step")}
    if event.get("event") == "plan":
        shown = {"steps": len(event.get("steps", ()))}
    if isinstance(shown.get("id"), str):
        shown["id"] = short(shown["id"])
    facts = "  ".join(f"{name}={_text(value)}" for name, value in shown.items() if value not in (None, "", {}, []))
    time = str(event.get("time", ""))[11:19]
    name, step = _text(event.get("event", "?")), _text(event.get("step", ""))
    return f"{time}  {name:<13}  {step:<20}  {facts}".rstrip()


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ",".join(f"{name}:{_text(item)}" for name, item in value.items())
    return " ".join(f"{value:.6g}".split() if isinstance(value, float) else str(value).split())
