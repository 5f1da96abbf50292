"""What one Ray job runs: a planned step with everything that it needs, as one JSON file."""

import json
from pathlib import Path

from pydantic import Field

from model.errors import ConfigError
from pipeline.artifacts.spec import ArtifactRef, StepSpec, short
from pipeline.config import Config, validate
from pipeline.plan import Plan, PlannedStep
from pipeline.recipe import Resources
from pipeline.site import Site


class JobSpec(Config):
    """The content of SPEC.json for `python -m pipeline run SPEC.json`."""

    key: str = Field(description="the step's key in its plan, e.g. 'segment-pretrain'")
    spec: StepSpec
    ref: ArtifactRef = Field(description="the artifact that the step makes")
    attempt: int = 0
    inputs: dict[str, ArtifactRef]
    site: Site
    resources: Resources
    git_commit: str | None = None

    def check(self) -> None:
        """Raises ConfigError unless the artifact and the inputs are those that the spec names.

        An id says how an artifact is made; published under another, it would be found by those who ask for that.
        """
        wrong = []
        made = self.spec.id(self.attempt)
        if made != self.ref.id:
            wrong.append(f"its spec and attempt make {short(made)}, but its ref is {self.ref}")
        given = {name: ref.id for name, ref in self.inputs.items()}
        for name in sorted(given.keys() | self.spec.inputs.keys()):
            asked, got = self.spec.inputs.get(name), given.get(name)
            if asked != got:
                wrong.append(f"input '{name}' is {short(got or 'none')}, but its spec has {short(asked or 'none')}")
        if wrong:
            raise ConfigError(
                f"{self.key} is not a right spec: {'; '.join(wrong)}. Specs are not edited: change the recipe, and "
                "'agevlm plan RECIPE --json FOLDER' writes right ones"
            )


def job_of(planned: PlannedStep, plan: Plan, site: Site, git_commit: str | None = None) -> JobSpec:
    """The job of one step of a plan."""
    return JobSpec(
        key=planned.key,
        spec=planned.spec,
        ref=planned.ref,
        attempt=planned.attempt,
        inputs={name: plan[key].ref for name, key in planned.inputs.items()},
        site=site,
        resources=planned.resources,
        git_commit=git_commit,
    )


def read_job(path: Path) -> JobSpec:
    """Read SPEC.json. Raises ConfigError if it is missing or wrong."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist; 'agevlm plan --json' writes the specs of a recipe") from error
    try:
        return validate(JobSpec, json.loads(text), str(path))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error
