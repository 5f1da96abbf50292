"""How to make a run again and look behind its numbers: commands, and the parameters read back from its artifacts."""

import json
import shlex

import yaml

from pipeline.artifacts.spec import short
from pipeline.report.collect import Run
from pipeline.report.origin import Origin
from pipeline.report.page import plural

SHOWN = 12  # differences to the shipped recipe that are listed


def commands(run: Run, origin: Origin, report_id: str) -> list[tuple[str, str]]:
    """What to type, each with what it is for."""
    ends = run.of_kind("evaluation") or run.of_kind("checkpoint") or list(run.steps)
    lines = [(flow_command(run, origin), "the same run; steps whose artifacts exist are not run again")]
    if ends:
        lines.append((f"agevlm show {ends[-1].short_id}", f"what {ends[-1].key} holds and how it was made"))
        lines.append((f"agevlm lineage {ends[-1].short_id}", "from it back to the raw data"))
    lines.append(("agevlm verify --all", "hash every file of every artifact again"))
    trained = run.of_kind("checkpoint")
    if trained:
        ask = f'agevlm ask {trained[-1].short_id} IMAGE "QUESTION" --map map.png'
        lines.append((ask, f"ask {trained[-1].key} yourself"))
    lines.append((f"agevlm show {short(report_id)}", "this page's own artifact"))
    return lines


def flow_command(run: Run, origin: Origin) -> str:
    """The command that starts the flow with what belongs beside the recipe: variants, limit, gates, prompt."""
    given = {"recipe": run.recipe if origin.shipped else f"PATH/OF/{run.recipe}.yaml", **origin.typed}
    words = [f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in given.items()]
    return " ".join(["prefect deployment run agevlm/full-recipe", *(f"-p {shlex.quote(word)}" for word in words)])


def conditions(run: Run, origin: Origin) -> list[str]:
    """What the first command needs to make the same run, beside the code."""
    lines = []
    if origin.differences:
        listed = "; ".join(origin.differences[:SHOWN])
        more = len(origin.differences) - SHOWN
        rest = f"; and {plural(more, 'other value')}, all of them below" if more > 0 else ""
        lines.append(
            f"This run's recipe differs from the {run.recipe}.yaml that ships with the project in: {listed}{rest}. Its "
            "file is needed to repeat the run."
        )
    elif not origin.shipped:
        lines.append(
            f"No recipe \u201c{run.recipe}\u201d ships with the project: its file is needed to repeat the run. What "
            "the command gives beside it is what this run used, whether it stood in the file or was typed."
        )
    if origin.outside:
        listed = ", ".join(f"{place} {short(checksum)}" for place, checksum in origin.outside.items())
        lines.append(
            f"What lies at the recipe's locations must be what lay there for this run: {listed} (the first digits of "
            "their checksums). 'agevlm plan' tells whether it is: then it calls every step cached."
        )
    return lines


def parameters(run: Run) -> str:
    """All steps' parameters as YAML: what the ids were made from, locations and machines left out."""
    return str(yaml.safe_dump({v.key: v.params for v in run.steps}, sort_keys=False, allow_unicode=True, width=110))
