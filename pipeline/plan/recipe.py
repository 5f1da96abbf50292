"""A recipe: one YAML file with all settings of a run."""

from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import Field, PositiveInt, model_validator

from model.errors import ConfigError
from model.stage_table import STAGE_STEPS, STAGES, Variant
from pipeline.artifacts.paths import PROJECT
from pipeline.compute.hub import is_hub_name
from pipeline.compute.resources import Resources
from pipeline.config import Config, added_later, read_yaml, validate
from pipeline.evaluation.config import EvaluationConfig
from pipeline.masks.config import MaskGates, TeacherConfig
from pipeline.masks.teachers.table import TEACHERS
from pipeline.overlap.config import DropKind
from pipeline.packing.config import PackConfig
from pipeline.plan.step_table import STEPS
from pipeline.sources.config import LOCATIONS, Source
from pipeline.sources.conversation import QueryKind
from pipeline.sources.files import absolute
from pipeline.training.config import GUIDANCE_FIELDS, StageConfig, StudentConfig
from pipeline.training.execution import Execution

RECIPES = PROJECT / "flows" / "recipes"
UNGUIDED_STEPS = frozenset(step for step in STAGE_STEPS[:2] if not STAGES[step].guidance_loss)
"""The stages that all variants share; their rows of the stage table have the same names."""
DatasetName = Literal["pretrain", "instruct", "evaluation"]


class Dataset(Config):
    """One raw data set, and the records and texts that are used from it."""

    source: Source
    limit: int | None = Field(
        default=None,
        ge=1,
        description="use only the first N records, in file order; no more are read, but all archives are listed",
    )
    expected_records: int | None = Field(
        default=None, ge=1, description="records, for the costs that 'agevlm plan' shows before the inventory exists"
    )
    subset: int | None = Field(default=None, ge=1, description="records whose queries are segmented (77K, 150K)")
    query: QueryKind = Field(default="caption", description="the text that is sent to Florence-2")
    turns: Literal["one", "all"] = Field(
        default="one", description="one turn per record, chosen by hash, or every turn"
    )
    drop: tuple[DropKind, ...] = added_later(
        (), description="records that training leaves out: copies, or those on images of another data set"
    )
    quotas: dict[str, PositiveInt] | None = added_later(
        None,
        min_length=1,
        description="source -> records whose queries are segmented, in place of 'subset'; other sources give none",
    )

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if self.quotas is not None and self.subset is not None:
            raise ValueError(
                f"subset = {self.subset} and quotas of {sum(self.quotas.values())} records; give one of them: with "
                "quotas, the subset has their sum"
            )
        return self


class Data(Config):
    """The three raw data sets of the paper's recipe."""

    pretrain: Dataset = Field(description="stages 1-3: Cambrian-Alignment 2.5M in the paper")
    instruct: Dataset = Field(description="stage 4: Cambrian-10M in the paper")
    evaluation: Dataset = Field(description="questions with known answers, about images that are not trained on")

    @model_validator(mode="after")
    def _can_be_dropped(self) -> Self:
        allowed = {"pretrain": get_args(DropKind), "instruct": ("duplicates", "evaluation_images"), "evaluation": ()}
        for name, dataset in self:
            for kind in dataset.drop:
                if kind not in allowed[name]:
                    can = (
                        f"it can drop {', '.join(allowed[name])}" if allowed[name] else "only training data is dropped"
                    )
                    raise ValueError(f"{name}.drop = '{kind}': {can}")
            if len(set(dataset.drop)) != len(dataset.drop):
                raise ValueError(f"{name}.drop = {list(dataset.drop)} repeats; name each kind once")
        return self


class Weights(Config):
    """Pretrained weights: 'miniature' (shipped), a local path, or 'hub:org/name@commit' (not for SAM)."""

    florence: str = "miniature"
    sam: str = Field(default="miniature", description="segment-anything's checkpoint; no hub has it in this form")
    text: str = Field(default="miniature", description="any Llama-architecture checkpoint")
    vision: str = Field(default="miniature", description="timm ConvNeXt: folder with config.json and safetensors")

    @model_validator(mode="after")
    def _sam_is_a_file(self) -> Self:
        if is_hub_name(self.sam):
            raise ValueError(
                f"sam = '{self.sam}': SAM is loaded from segment-anything's own checkpoint, not from a hub repository; "
                "download it (sam_vit_h_4b8939.pth, sam_vit_l_0b3195.pth or sam_vit_b_01ec64.pth) and give its path"
            )
        return self


class Training(Config):
    """The stages: common fields, and fields that differ in a stage. They are those of StageConfig and of Execution."""

    common: dict[str, Any] = Field(default_factory=dict, description="fields for every stage")
    stages: dict[str, dict[str, Any]] = Field(default_factory=dict, description="stage1..stage4 -> fields that differ")

    @model_validator(mode="after")
    def _known(self) -> Self:
        unknown = sorted(set(self.stages) - set(STAGE_STEPS))
        if unknown:
            raise ValueError(f"unknown stage '{unknown[0]}'; stages are {', '.join(STAGE_STEPS)}")
        for stage in STAGE_STEPS:
            config = self.stage(stage)
            self.execution(stage)
            given = self.stages.get(stage, {}).keys() & set(GUIDANCE_FIELDS)
            unused = sorted(f for f in given if getattr(config, f) != getattr(config.without_guidance(), f))
            if unused and stage in UNGUIDED_STEPS:
                raise ValueError(
                    f"stages.{stage}.{unused[0]} = {self.stages[stage][unused[0]]!r}: {stage} has no guidance loss; "
                    "take it out, or give it to stage3, stage4 or 'common'"
                )
        return self

    def stage(self, name: str) -> StageConfig:
        """The settings that decide a stage's result: the common fields, replaced by the stage's."""
        return validate(StageConfig, self._fields(name, Execution), f"training of {name}")

    def execution(self, name: str) -> Execution:
        """The settings that no id has: the common fields, replaced by the stage's."""
        return validate(Execution, self._fields(name, StageConfig), f"training of {name}")

    def _fields(self, name: str, other: type[Config]) -> dict[str, Any]:
        """The fields of a stage without those of the other model, so that a misspelt one is refused."""
        fields = {**self.common, **self.stages.get(name, {})}
        return {field: value for field, value in fields.items() if field not in other.model_fields}


class Recipe(Config):
    """All settings that decide a run's results, and the resources of its steps."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]*$", description="short name; part of job names")
    description: str = ""
    expected_minutes: float | None = Field(default=None, gt=0, description="measured time of a run on 2 idle CPU cores")
    expected_gib: float | None = Field(default=None, gt=0, description="measured disk space of a run in GiB")
    seed: int = Field(default=0, ge=0, description="seed of subset choice, pack order and initialisation")
    variants: tuple[Variant, ...] = Field(default=("age_vlm",), min_length=1)
    data: Data
    weights: Weights = Weights()
    teacher: TeacherConfig = TeacherConfig()
    gates: MaskGates = MaskGates()
    pack: PackConfig = PackConfig()
    student: StudentConfig = StudentConfig()
    training: Training = Training()
    evaluation: EvaluationConfig = EvaluationConfig()
    max_reject_share: float = Field(
        default=0.05, ge=0, le=1, description="a step fails if a larger share of its rows is rejected, or every one"
    )
    resources: dict[str, Resources] = Field(default_factory=dict, description="step -> resources that differ")
    versions_in_ids: tuple[str, ...] = Field(
        default=(),
        description="libraries whose version enters the ids of the steps that they decide, e.g. [torch, transformers]: "
        "after an upgrade, these steps are made again",
    )

    @model_validator(mode="after")
    def _libraries_that_decide(self) -> Self:
        known = sorted({name for step in STEPS.values() for name in step.libraries})
        for name in self.versions_in_ids:
            if name not in known:
                raise ValueError(f"versions_in_ids: '{name}' decides no result; give some of {', '.join(known)}")
        return self

    @model_validator(mode="after")
    def _known_teacher(self) -> Self:
        if self.teacher.kind not in TEACHERS:
            raise ValueError(
                f"teacher.kind = '{self.teacher.kind}': there is no such teacher; give one of {', '.join(TEACHERS)}"
            )
        return self

    @model_validator(mode="after")
    def _distinct_variants(self) -> Self:
        if len(set(self.variants)) != len(self.variants):
            raise ValueError(f"variants {list(self.variants)} repeat; name each once")
        return self

    @model_validator(mode="after")
    def _known_resources(self) -> Self:
        unknown = sorted(set(self.resources) - set(STEPS))
        if unknown:
            raise ValueError(f"resources: unknown step '{unknown[0]}'; steps are {', '.join(STEPS)}")
        return self

    def override(
        self,
        *,
        variants: list[str] | None = None,
        limit: int | None = None,
        gates: dict[str, float | None] | None = None,
        teacher: dict[str, Any] | None = None,
    ) -> "Recipe":
        """The recipe with some values replaced by those a user typed; None means 'as the recipe says'."""
        raw = self.model_dump(mode="json")
        if variants is not None:
            raw["variants"] = variants
        if limit is not None:
            for dataset in raw["data"].values():
                dataset["limit"] = limit
        raw["gates"].update({k: v for k, v in (gates or {}).items() if v is not None})
        raw["teacher"].update({k: v for k, v in (teacher or {}).items() if v is not None})
        return validate(Recipe, raw, f"recipe '{self.name}' with the given parameters")


def available() -> dict[str, Path]:
    """The recipes that ship with the project, by name."""
    return {path.stem: path for path in sorted(RECIPES.glob("*.yaml"))}


def load_recipe(name: str) -> Recipe:
    """Load a recipe by name (`flows/recipes/NAME.yaml`) or by the path of a YAML file.

    Relative locations start from the recipe's folder, or from the project's root for a shipped recipe. They do not
    depend on the folder in which the command or the flow runs. Raises ConfigError.
    """
    path, what = recipe_path(name), f"recipe '{name}'"
    base = PROJECT if name in available() else path.resolve().parent
    return _located(validate(Recipe, read_yaml(recipe_text(name), what), what), base)


def recipe_path(name: str) -> Path:
    """The YAML file of a recipe, by the name of a shipped one or by path. Raises ConfigError if there is none."""
    shipped = available()
    path = shipped.get(name) or Path(name).expanduser()
    if not path.is_file():
        raise ConfigError(f"recipe '{name}': no such recipe or file; recipes are: {', '.join(shipped)}")
    return path


def recipe_text(name: str) -> str:
    """The text of a recipe's YAML file. Raises ConfigError if there is none or if it cannot be read."""
    try:
        return recipe_path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe '{name}' cannot be read as UTF-8 text: {error}") from error


def recipe_argument(name: str) -> str:
    """A recipe as an argument for a flow that runs in another folder: a shipped name, or a file's absolute path."""
    path = Path(name).expanduser()
    return str(path.resolve()) if name not in available() and path.is_file() else name


def _located(recipe: Recipe, base: Path) -> Recipe:
    """The recipe with absolute locations."""
    datasets = {}
    for name, dataset in recipe.data:
        places = {field: getattr(dataset.source, field) for field in LOCATIONS[dataset.source.kind]}
        places = {field: absolute(place, base) for field, place in places.items() if place is not None}
        datasets[name] = dataset.model_copy(update={"source": dataset.source.model_copy(update=places)})
    weights = {
        role: name if name == "miniature" or is_hub_name(name) else str((base / name).resolve())
        for role, name in recipe.weights
    }
    return recipe.model_copy(update={"data": Data(**datasets), "weights": Weights(**weights)})
