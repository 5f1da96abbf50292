"""One Ray job: a planned step with its inputs, locations and resources, as one JSON file in the store."""

from typing import Any

from pydantic import Field

from model.errors import ConfigError
from pipeline.artifacts.filesystem import open_filesystem
from pipeline.artifacts.manifest import Origin
from pipeline.artifacts.spec import ArtifactRef, StepSpec, parsed, short
from pipeline.compute.resources import Resources
from pipeline.config import Config, validate
from pipeline.plan.locations import Locations
from pipeline.plan.planner import Plan, PlannedStep
from pipeline.training.execution import Execution


class JobSpec(Config):
    """The content of SPEC.json for `python -m pipeline run SPEC.json`. Only `spec` and `attempt` make the id."""

    key: str = Field(description="the step's key in its plan, e.g. 'segment-pretrain'")
    spec: StepSpec
    ref: ArtifactRef = Field(description="the artifact that the step makes")
    attempt: int = 0
    inputs: dict[str, ArtifactRef]
    locations: Locations
    resources: Resources
    execution: Execution | None = Field(default=None, description="how a training stage runs")
    git_commit: str | None = None
    writes: int | None = Field(default=None, description="bytes that the step is expected to write to the store")
    submission_id: str | None = Field(default=None, description="submission id of the Ray job that runs it")
    origin: Origin | None = Field(default=None, description="the flow run that started the job; for people only")
    submitted: float | None = Field(default=None, description="time of its submission, seconds since 1970")
    recipe: str | None = Field(default=None, description="name of the recipe of the run that submitted it")
    environment: dict[str, str] = Field(default_factory=dict, description="environment variables of its process")
    command: dict[str, Any] | None = Field(
        default=None, description="how the run was started: deployment, recipe and the other parameters; for the report"
    )

    @property
    def folder(self) -> str:
        """Path or URL of the artifact's folder, which has its manifest."""
        return f"{self.locations.root.rstrip('/')}/{self.ref.path}"

    @property
    def links(self) -> list[str]:
        """The first lines of the job's log: its step and artifact, and the pages of its run and of itself."""
        lines = [f"{self.key}: making {self.ref}", f"  artifact    {self.folder}   (agevlm show {short(self.ref.id)})"]
        if self.origin is not None:
            lines.append(f"  flow run    {self.origin.run}")
            lines += [f"  Ray job     {self.origin.job_page}"] if self.origin.job_page else []
        return lines

    def check(self) -> None:
        """Raise ConfigError unless the ids of artifact and inputs are those of the spec.

        An artifact that is published under the wrong id would later be used in place of the right one.
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
                f"{self.key} is not a valid spec: {'; '.join(wrong)}. Do not edit specs: change the recipe, and "
                "'agevlm plan RECIPE --json FOLDER' writes valid ones"
            )


def job_of(
    planned: PlannedStep,
    plan: Plan,
    locations: Locations,
    git_commit: str | None = None,
    command: dict[str, Any] | None = None,
) -> JobSpec:
    """The job of one step of a plan."""
    return JobSpec(
        key=planned.key,
        spec=planned.spec,
        ref=planned.ref,
        attempt=planned.attempt,
        inputs={name: plan[key].ref for name, key in planned.inputs.items()},
        locations=locations,
        resources=planned.resources,
        execution=planned.execution,
        git_commit=git_commit,
        command=command,
    )


def read_job(location: str) -> JobSpec:
    """Read SPEC.json at a local path or fsspec URL. Raises ConfigError if it is missing or wrong."""
    try:
        fs, path = open_filesystem(location)
        return validate(JobSpec, parsed(fs.cat_file(path)), location)
    except OSError as error:
        raise ConfigError(
            f"{location} cannot be read ({error}); 'agevlm plan --json' writes the specs of a recipe"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{location} is not JSON: {error}") from error
