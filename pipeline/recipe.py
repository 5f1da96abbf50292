"""A recipe: one YAML file that says everything about a run. Two recipes differ visibly."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from model.errors import ConfigError
from pipeline.config import Config, read_yaml, validate
from pipeline.evaluation.config import EvaluationConfig
from pipeline.masks.config import MaskGates, QueryKind, TeacherConfig
from pipeline.sources.config import LOCATIONS, Source
from pipeline.training.config import PackConfig, StageConfig, StudentConfig, Variant

PROJECT = Path(__file__).resolve().parent.parent
RECIPES = PROJECT / "flows" / "recipes"
# The rows of the step table, which itself reads this module.
STEP_NAMES = (
    *("inventory", "subset", "segment", "masks", "pack"),
    *("stage1", "stage2", "stage3", "stage4"),
    *("evaluate", "report"),
)
DatasetName = Literal["pretrain", "instruct", "evaluation"]


class Dataset(Config):
    """One raw data set and what is taken from it."""

    source: Source
    limit: int | None = Field(default=None, ge=1, description="use only the first N records of the seeded hash order")
    subset: int | None = Field(default=None, ge=1, description="records whose queries are segmented (77K, 150K)")
    query: QueryKind = Field(default="caption", description="the text that is sent to Florence-2")
    turns: Literal["one", "all"] = Field(
        default="one", description="one turn per record, chosen by hash, or every turn"
    )


class Data(Config):
    """The three raw data sets of the paper's recipe."""

    pretrain: Dataset = Field(description="stages 1-3: Cambrian-Alignment 2.5M in the paper")
    instruct: Dataset = Field(description="stage 4: Cambrian-10M in the paper")
    evaluation: Dataset = Field(description="questions with known answers, about other images than those trained on")


class Weights(Config):
    """Pretrained weights: 'miniature' (shipped), a local path, or 'hub:org/name@commit' (but for SAM)."""

    florence: str = "miniature"
    sam: str = Field(default="miniature", description="segment-anything's checkpoint; no hub has it in this form")
    text: str = Field(default="miniature", description="any Llama-architecture checkpoint")
    vision: str = Field(default="miniature", description="timm ConvNeXt: folder with config.json and safetensors")

    @model_validator(mode="after")
    def _sam_is_a_file(self) -> Self:
        if self.sam.startswith("hub:"):
            raise ValueError(
                f"sam = '{self.sam}': SAM is read from segment-anything's own checkpoint, which is no hub repository; "
                "download it (sam_vit_h_4b8939.pth, sam_vit_l_0b3195.pth or sam_vit_b_01ec64.pth) and give its path"
            )
        return self


class Resources(Config):
    """What a step asks of Ray. Never part of an id."""

    cpus: float = Field(default=1, ge=0, description="CPUs of each worker or actor")
    gpus: float = Field(default=0, ge=0, description="GPUs of each worker or actor")
    workers: int = Field(default=1, ge=1, description="Ray Train workers or teacher actors")
    threads: int = Field(default=1, ge=1, description="CPU threads of torch in each worker")
    micro_batch: int = Field(default=16, ge=1, description="samples of one forward pass in training")


class Training(Config):
    """The stages' optimisation: what is common, and what each stage does differently."""

    common: dict[str, Any] = Field(default_factory=dict, description="fields of StageConfig for every stage")
    stages: dict[str, dict[str, Any]] = Field(default_factory=dict, description="stage1..stage4 -> fields that differ")

    @model_validator(mode="after")
    def _known(self) -> Self:
        unknown = sorted(set(self.stages) - {"stage1", "stage2", "stage3", "stage4"})
        if unknown:
            raise ValueError(f"unknown stage '{unknown[0]}'; stages are stage1, stage2, stage3, stage4")
        for stage in ("stage1", "stage2", "stage3", "stage4"):
            self.stage(stage)
        return self

    def stage(self, name: str) -> StageConfig:
        """The configuration of a stage: common fields, then its own."""
        return validate(StageConfig, {**self.common, **self.stages.get(name, {})}, f"training of {name}")


class Recipe(Config):
    """Everything that decides a run's results, and the resources it asks for."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]*$", description="short name; part of job names")
    description: str = ""
    seed: int = Field(default=0, ge=0, description="of subset choice, pack order and initialisation")
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

    @model_validator(mode="after")
    def _distinct_variants(self) -> Self:
        if len(set(self.variants)) != len(self.variants):
            raise ValueError(f"variants {list(self.variants)} repeat; name each once")
        return self

    @model_validator(mode="after")
    def _known_resources(self) -> Self:
        unknown = sorted(set(self.resources) - set(STEP_NAMES))
        if unknown:
            raise ValueError(f"resources: unknown step '{unknown[0]}'; steps are {', '.join(STEP_NAMES)}")
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

    Relative locations start from the recipe's own folder, those of a shipped recipe from the project's: they mean the
    same wherever the command or the flow runs. Raises ConfigError.
    """
    shipped = available()
    path = shipped.get(name) or Path(name).expanduser()
    if not path.is_file():
        raise ConfigError(f"recipe '{name}': no such recipe or file; recipes are: {', '.join(shipped)}")
    what = f"recipe {path.name}"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{what} cannot be read as UTF-8 text: {error}") from error
    base = PROJECT if name in shipped else path.resolve().parent
    return _located(validate(Recipe, read_yaml(text, what), what), base)


def recipe_argument(name: str) -> str:
    """A recipe as a flow that runs elsewhere understands it: a shipped name as it is, a file by its absolute path."""
    path = Path(name).expanduser()
    return str(path.resolve()) if name not in available() and path.is_file() else name


def _located(recipe: Recipe, base: Path) -> Recipe:
    """The recipe with absolute locations."""
    datasets = {}
    for name, dataset in recipe.data:
        places = {field: getattr(dataset.source, field) for field in LOCATIONS[dataset.source.kind]}
        places = {field: str((base / place).resolve()) for field, place in places.items() if place is not None}
        datasets[name] = dataset.model_copy(update={"source": dataset.source.model_copy(update=places)})
    weights = {
        role: name if name == "miniature" or name.startswith("hub:") else str((base / name).resolve())
        for role, name in recipe.weights
    }
    return recipe.model_copy(update={"data": Data(**datasets), "weights": Weights(**weights)})
