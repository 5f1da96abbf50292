"""A small stage that can be stopped at any step and goes on from its checkpoints, in this process."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from model.stage_table import STAGES
from model.stages import apply_stage
from pipeline.artifacts.shards import Shards
from pipeline.artifacts.store import ArtifactStore
from pipeline.training.checkpoints.checkpoints import Checkpoints
from pipeline.training.config import StageConfig, StudentConfig
from pipeline.training.data.batches import Collator
from pipeline.training.data.samples import open_samples
from pipeline.training.execution import Execution
from pipeline.training.held_out import HeldOut
from pipeline.training.loop import StageTrainer
from pipeline.training.student import join_backbones
from pipeline.training.tensors import full_state, named_trained, to_full
from pipeline.training.watch.metrics import METRICS, world_size
from tests.pipeline.training.fixtures_tiny_training import ExactGuide, local_index, make_pack

STEPS = 6
CONFIG = StageConfig(
    epochs=2, global_batch=4, learning_rate=3e-3, warmup_ratio=0.4, precision="fp32", max_steps=STEPS, held_out=2
)
EXECUTION = Execution(log_every=1, held_out_every=2, checkpoint_steps=1)
STUDENT = StudentConfig(cross_attention_layers=(1, 4))


class Killed(Exception):
    """Stands for the end of the process."""


def make_world(folder: Path, backbones: dict[str, str]) -> "World":
    """A pack with text-only and guided rows."""
    model, processor = join_backbones(STUDENT, backbones["text"], backbones["vision"], 0)
    guide = make_pack(folder, processor, 40, text_only=5, guided_every=1)
    return World(folder, guide, model, processor)


@dataclass(repr=False)
class World:
    """The data and the parent of small stages."""

    pack: Path
    guide: ExactGuide
    parent: Any
    processor: Any
    undisturbed: dict[str, "Run"] = field(default_factory=dict)

    def trainer(self, stage: str, execution: Execution = EXECUTION, rank: int = 0) -> StageTrainer:
        """A trainer at its first step."""
        row, model = STAGES[stage], copy.deepcopy(self.parent)
        apply_stage(model, row)
        samples = open_samples(local_index(self.pack), row, CONFIG, seed=0)
        guide, pad = self.guide if row.guidance_loss else None, self.processor.tokenizer.pad_token_id
        collate, other = (Collator(self.processor.image_processor, pad, guide) for _ in range(2))
        held_out = HeldOut.read(samples, other, 2, rank, world_size())
        return StageTrainer(model, row, CONFIG, execution, samples, collate, 2, 0, rank, held_out)

    def reference(self, stage: str) -> "Run":
        """The end of a stage that nothing disturbed and that took no checkpoint."""
        if stage not in self.undisturbed:
            trainer = self.trainer(stage)
            trainer.run(lambda done, row: None)
            self.undisturbed[stage] = Run.of(trainer)
        return self.undisturbed[stage]


@dataclass(frozen=True)
class Run:
    """All that a stage has made."""

    weights: dict[str, torch.Tensor]
    moments: dict[str, torch.Tensor]
    rows: list[dict[str, Any]]
    notes: dict[str, int]

    @classmethod
    def of(cls, trainer: StageTrainer) -> "Run":
        """Every worker must call this."""
        moments = {
            f"{key}/{name}": to_full(value).clone()
            for name, parameter in named_trained(trainer.model).items()
            for key, value in trainer.optimizer.state[parameter].items()
        }
        weights = {name: value.clone() for name, value in full_state(trainer.model).items()}
        return cls(weights, moments, trainer.log.table(METRICS).to_pylist(), trainer.total_notes())


def assert_same(run: Run, other: Run) -> None:
    """Every bit is the same."""
    for mine, theirs in ((run.weights, other.weights), (run.moments, other.moments)):
        assert mine.keys() == theirs.keys()
        assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []
    assert run.rows == other.rows
    assert run.notes == other.notes


def shards_at(folder: Path, inputs: str = "inputs") -> Shards:
    """A place for checkpoints in a store on disk."""
    return Shards(ArtifactStore(str(folder)), "work/id/checkpoints-0", inputs)


def go_on(
    trainer: StageTrainer,
    shards: Shards,
    cache: Path,
    stop: int | None = None,
    watch: Callable[[Checkpoints], None] = lambda checkpoints: None,
) -> Checkpoints:
    """Train from the newest checkpoint to the end, or raise Killed after step `stop` or the first step after it.

    It leaves no write in flight.
    """
    with Checkpoints(trainer, shards, trainer._rank) as checkpoints:
        checkpoints.resume(cache)

        def report(done: int, row: dict[str, Any] | None) -> None:
            checkpoints.after_step(row is not None)
            watch(checkpoints)
            if stop is not None and done >= stop:
                raise Killed

        trainer.run(report)
    return checkpoints
