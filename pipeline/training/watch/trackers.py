"""Programs that show metrics while a stage trains, behind one small interface.

Only worker 0 has trackers. A run that goes on after a kill logs some steps again: their values are the same, and no
curve gets a step twice.
"""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from model.errors import ConfigError
from pipeline.artifacts.spec import short
from pipeline.artifacts.store import ArtifactStore
from pipeline.compute.metrics import tags_of
from pipeline.training.watch.event_files import EventFiles, event_folder
from pipeline.training.watch.ray_gauges import RayGauges

Row = Mapping[str, Any]


class Tracker(Protocol):
    """Gets the metrics of a stage."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log the values of one row of metrics."""

    def close(self) -> None:
        """End the logging; everything is written afterwards."""


@dataclass(frozen=True)
class Stage:
    """The stage that is trained: what trackers name their curves by. `rows`: metrics of an earlier run of it."""

    store: ArtifactStore
    artifact: str
    row: str
    key: str
    rows: Sequence[Row] = ()
    recipe: str | None = None

    @property
    def name(self) -> str:
        """Name of the stage's run in every tracker."""
        return f"{self.row}-{short(self.artifact)}"


def scalars(row: Row, layers: Sequence[str]) -> dict[str, float]:
    """A row of metrics as numbers by name; a column with a value per cross-attention layer becomes one per layer."""
    found: dict[str, float] = {}
    for name, value in row.items():
        if isinstance(value, list):
            found |= {f"{name}/{layer}": float(item) for layer, item in zip(layers, value, strict=True)}
        elif value is not None and name != "step":
            found[name] = float(value)
    return found


def open_tensorboard(stage: Stage) -> Tracker:
    """Event files in the store."""
    files = EventFiles(stage.store, event_folder(stage.row, stage.artifact))
    print(f"TensorBoard files: tensorboard --logdir {files.location}", flush=True)
    return files


class MlflowRun:
    """One MLflow run per stage; a stage that goes on continues its run. The server is MLFLOW_TRACKING_URI."""

    def __init__(self, stage: Stage) -> None:
        import mlflow

        self._mlflow = mlflow
        mlflow.set_experiment("agevlm")
        own = f"tags.agevlm_artifact = '{stage.artifact}'"
        known = mlflow.search_runs(filter_string=own, output_format="list")
        tags = {"agevlm_artifact": stage.artifact, "agevlm_stage": stage.row, "agevlm_step": stage.key}
        self._run = mlflow.start_run(known[0].info.run_id if known else None, run_name=stage.name, tags=tags)
        self._last = int(known[0].data.metrics.get("samples_step", -1)) if known else -1

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log a row, unless an earlier run of the stage did."""
        if step > self._last:
            # MLflow does not tell up to which step a run is logged, so the step is a metric too.
            self._mlflow.log_metrics({**values, "samples_step": float(step)}, step=step)

    def close(self) -> None:
        """End the run."""
        self._mlflow.end_run()


class WandbRun:
    """One W&B run per stage; a stage that goes on continues its run. W&B itself refuses steps that it has."""

    def __init__(self, stage: Stage) -> None:
        import wandb

        self._run = wandb.init(
            project="agevlm", id=stage.artifact[:32], name=stage.name, group=stage.key, resume="allow"
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log a row, unless an earlier run of the stage did."""
        if step >= self._run.step:
            self._run.log(dict(values), step=step)

    def close(self) -> None:
        """End the run."""
        self._run.finish()


def open_ray(stage: Stage) -> Tracker:
    """Ray's metrics."""
    return RayGauges(tags_of(stage.recipe, stage.key, stage.artifact))


TRACKERS: dict[str, tuple[str, Callable[[Stage], Tracker]]] = {
    "tensorboard": ("tensorboard", open_tensorboard),
    "mlflow": ("mlflow", MlflowRun),
    "wandb": ("wandb", WandbRun),
}
"""Name of a tracker -> the module that it needs, and its opener."""


def check_trackers(names: Sequence[str]) -> None:
    """Raise ConfigError if a tracker's program is not installed."""
    for name in names:
        module = TRACKERS[name][0]
        if importlib.util.find_spec(module) is None:
            raise ConfigError(
                f"training's trackers has {name!r}, but the package {module} is not installed on this machine: install "
                f"it with 'uv pip install {module}', or leave it out of trackers"
            )


def open_trackers(names: Sequence[str], stage: Stage) -> list[Tracker]:
    """The trackers of a stage, and Ray's metrics always. Raises ConfigError as `check_trackers` does."""
    check_trackers(names)
    return [open_ray(stage), *(TRACKERS[name][1](stage) for name in names)]
