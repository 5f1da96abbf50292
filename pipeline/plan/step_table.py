"""The step table: one row per step. A new step is one module and one row.

Rows name their code as a string, so that reading the table imports neither Ray nor torch.
"""

from dataclasses import dataclass, field

from model.stage_table import STAGE_STEPS
from pipeline.compute.resources import Resources
from pipeline.config import Config
from pipeline.plan.parameters import (
    EvaluateParams,
    InventoryParams,
    MasksParams,
    OverlapParams,
    PackParams,
    ReportParams,
    SegmentParams,
    StageParams,
    SubsetParams,
)


@dataclass(frozen=True)
class Step:
    """One row of the step table: a step's parameters, inputs, resources and code."""

    name: str
    summary: str
    kind: str
    """Kind of the artifact that it makes: the first folder below the store's root."""
    unit: str
    """Unit of its counts, e.g. 'record'."""
    params: type[Config]
    entry: str
    """Its code, as 'module:function'; called with a StepContext."""
    inputs: dict[str, str] = field(default_factory=dict)
    """Input name -> kind of artifact."""
    takes_all: bool = False
    """True if it reads all other artifacts of the run, each as the input '<kind>/<key of the step that made it>'."""
    optional: frozenset[str] = frozenset()
    """Inputs that some plans leave out."""
    revision: int = 1
    resources: Resources = field(default_factory=Resources)
    sources: tuple[str, ...] = ()
    """Files and folders whose change can change results; a test asks for a new revision when they change."""
    libraries: tuple[str, ...] = ()
    """Libraries whose version can change the values of its result. Parquet's writer changes bytes, but no value."""
    group: str = "data"
    """Its group in diagrams: 'data', 'teachers', 'training' or 'evaluation'."""

    def input_kind(self, name: str) -> str | None:
        """Kind of the artifact that an input must be; None if the step has no such input."""
        return name.split("/")[0] if self.takes_all else self.inputs.get(name)


_PICTURES = ("model/images.py", "model/jpeg.py", "model/containers.py", "model/agevlm/upright.py")
_READING = ("pipeline/schemas.py", "pipeline/sources", *_PICTURES)
"""Files that decide which records and pictures a step sees."""
_TWO_TASKS = Resources(cpus=1, workers=2)
"""A laptop's two cores. A recipe for a larger machine gives inventory and pack more tasks."""

STEPS: dict[str, Step] = {
    step.name: step
    for step in (
        Step(
            name="inventory",
            summary="read records, resolve, open and hash every image",
            kind="inventory",
            unit="record",
            params=InventoryParams,
            entry="pipeline.steps.inventory:run",
            revision=2,
            resources=_TWO_TASKS,
            libraries=("pillow", "simplejpeg"),  # they decide which pictures are sound
            sources=("pipeline/steps/inventory.py", "pipeline/inventory", *_READING),
        ),
        Step(
            name="overlap",
            summary="find duplicates, and images that data sets share",
            kind="overlap",
            unit="record",
            params=OverlapParams,
            entry="pipeline.steps.overlap:run",
            inputs={"pretrain": "inventory", "instruct": "inventory", "evaluation": "inventory"},
            sources=(
                "pipeline/steps/overlap.py",
                "pipeline/steps/record_batches.py",
                "pipeline/overlap",
                "pipeline/schemas.py",
            ),
        ),
        Step(
            name="subset",
            summary="choose the records and the texts that the teachers see",
            kind="subset",
            unit="record",
            params=SubsetParams,
            entry="pipeline.steps.subset:run",
            inputs={"inventory": "inventory", "overlap": "overlap"},
            optional=frozenset({"overlap"}),
            sources=(
                "pipeline/steps/subset.py",
                "pipeline/steps/dropped.py",
                "pipeline/overlap/config.py",
                "pipeline/steps/selection.py",
                "pipeline/steps/record_batches.py",
                "pipeline/compute/sorting.py",
                "pipeline/schemas.py",
                "pipeline/sources/conversation.py",
                "pipeline/sources/records.py",
            ),
        ),
        Step(
            name="segment",
            group="teachers",
            summary="Florence-2 + SAM on every query; raw evidence, ungated",
            kind="segments",
            unit="query",
            params=SegmentParams,
            entry="pipeline.steps.segment:run",
            revision=2,
            inputs={"subset": "subset", "inventory": "inventory"},
            resources=Resources(cpus=1, workers=1, threads=2),
            # the kernels, Florence-2 and its search, the tokens of the query, SAM and its resizing, the decoded pixels
            libraries=("torch", "transformers", "tokenizers", "segment-anything", "torchvision", "pillow"),
            sources=(
                "pipeline/steps/segment.py",
                "pipeline/masks/evidence.py",
                "pipeline/masks/pictures.py",
                "pipeline/masks/parts.py",
                "pipeline/masks/statistics.py",
                "pipeline/masks/stream.py",
                "pipeline/masks/actors.py",
                "pipeline/masks/attempts.py",
                "pipeline/masks/bisection.py",
                "pipeline/masks/carried.py",
                "pipeline/masks/deaths.py",
                "pipeline/masks/poison.py",
                "pipeline/masks/probing.py",
                "pipeline/masks/watch.py",
                "pipeline/masks/teachers",
                "model/agevlm/loading.py",
                "model/miniature/sam.py",
                "model/teachers",
                *_READING,
            ),
        ),
        Step(
            name="masks",
            group="teachers",
            summary="apply the gates, merge instances, publish masks",
            kind="masks",
            unit="query",
            params=MasksParams,
            entry="pipeline.steps.masks:run",
            revision=2,
            inputs={"segments": "segments"},
            sources=(
                "pipeline/steps/masks.py",
                "pipeline/masks/candidates.py",
                "pipeline/masks/gates.py",
                "pipeline/masks/price.py",
                "pipeline/masks/quality.py",
                "pipeline/masks/parts.py",
                "pipeline/masks/statistics.py",
                # the contact sheet
                "pipeline/report/contact_sheet.py",
                "pipeline/report/originals.py",
                "pipeline/report/overlays.py",
                "pipeline/report/sample.py",
                "pipeline/schemas.py",
                "model/teachers/rle.py",
                *_READING,
            ),
        ),
        Step(
            name="pack",
            summary="tokenize conversations; images and tokens into shards in random order",
            kind="pack",
            unit="record",
            params=PackParams,
            entry="pipeline.steps.pack:run",
            inputs={"inventory": "inventory", "overlap": "overlap"},
            optional=frozenset({"overlap"}),
            revision=3,
            resources=_TWO_TASKS,
            libraries=("tokenizers", "jinja2"),  # the tokens, and the text of the chat template; pictures are copied
            sources=(
                "pipeline/steps/pack.py",
                "pipeline/steps/dropped.py",
                "pipeline/steps/record_batches.py",
                "pipeline/overlap/config.py",
                "pipeline/packing",
                "pipeline/compute/sorting.py",
                "model/agevlm/chat_templates.py",
                "model/agevlm/chat_text.py",
                *_READING,
            ),
        ),
        *(
            Step(
                name=step,
                group="training",
                summary=summary,
                kind="checkpoint",
                unit="sample",
                params=StageParams,
                entry="pipeline.steps.train:run",
                inputs={"pack": "pack", "masks": "masks"}
                | ({"parent": "checkpoint"} if step != STAGE_STEPS[0] else {}),
                optional=frozenset({"masks"}),
                revision=3,
                resources=Resources(cpus=1, workers=1, threads=2),
                # the kernels and AdamW, Llama, ConvNeXt, the order of samples, the decoded and resized pixels
                libraries=("torch", "transformers", "timm", "numpy", "pillow"),
                sources=(
                    "pipeline/steps/train.py",
                    "pipeline/training",
                    "pipeline/masks/cell_builder.py",
                    "pipeline/masks/cells.py",
                    "pipeline/masks/parts.py",
                    "pipeline/masks/statistics.py",
                    "pipeline/schemas.py",
                    "model/agevlm",
                    *_PICTURES,
                    "model/stage_table.py",
                    "model/stages.py",
                    "model/teachers/rle.py",
                ),
            )
            for step, summary in zip(
                STAGE_STEPS,
                (
                    "align: adapter and cross-attention",
                    "adapt: and the last stage of the vision encoder",
                    "ground: and the guidance loss",
                    "instruct: the whole model",
                ),
                strict=True,
            )
        ),
        Step(
            name="evaluate",
            group="evaluation",
            summary="answers and attention on held-out questions",
            kind="evaluation",
            unit="question",
            params=EvaluateParams,
            entry="pipeline.steps.evaluate:run",
            inputs={"checkpoint": "checkpoint", "inventory": "inventory"},
            resources=Resources(cpus=1, threads=2),
            # the kernels, Llama and generation, the tokens of the question, ConvNeXt, the decoded and resized pixels
            libraries=("torch", "transformers", "tokenizers", "timm", "pillow"),
            sources=(
                "pipeline/steps/evaluate.py",
                "pipeline/evaluation",
                "pipeline/training/student.py",
                "model/agevlm",
                "model/teachers/rle.py",
                *_READING,
            ),
        ),
        Step(
            name="report",
            summary="one self-contained HTML page about the run",
            kind="report",
            unit="artifact",
            params=ReportParams,
            entry="pipeline.steps.report:run",
            takes_all=True,
            revision=5,
            group="evaluation",
            sources=(
                "pipeline/steps/report.py",
                "pipeline/report",
                "pipeline/evaluation/intervals.py",
                "pipeline/masks/candidates.py",
                "pipeline/masks/gates.py",
                "pipeline/masks/price.py",
                "pipeline/masks/prices.py",
                "pipeline/masks/teachers/table.py",
                "pipeline/masks/quality.py",
                "pipeline/masks/parts.py",
                "pipeline/masks/statistics.py",
                "pipeline/schemas.py",
                *_PICTURES,
                "model/stage_table.py",
                "model/teachers/rle.py",
            ),
        ),
    )
}
