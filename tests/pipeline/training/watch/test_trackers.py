"""Trackers: event files that hold each step once, also after a resume; missing programs; Ray's gauges."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from model.errors import ConfigError
from pipeline.artifacts.progress import Progress, read_progress
from pipeline.artifacts.store import ArtifactStore
from pipeline.compute.metrics import tags_of
from pipeline.training.watch import event_files, stage_watch, trackers
from pipeline.training.watch.ray_gauges import NAMES, RayGauges
from pipeline.training.watch.stage_watch import StageWatch
from pipeline.training.watch.trackers import MlflowRun, Stage, WandbRun, check_trackers, open_tensorboard, scalars
from pipeline.training.watch.warnings import StageFacts

ID = "ab" * 32


def row_of(step: int) -> dict[str, Any]:
    return {
        "step": step,
        "samples": 8 * step,
        "lm_loss": 2.0 + 1 / step,
        "guidance_loss": None if step % 4 == 0 else 0.5 / step,
        "attention_in_mask": None if step % 4 == 0 else [0.1 * step / 100, 0.2],
        "guided_rows": 0 if step % 4 == 0 else 3,
        "even_in_mask": 0.1,
        "tokens_per_second": 12_345.0,
        "data_wait": 0.01,
        "held_out_loss": None,
    }


ROWS = [row_of(step) for step in range(2, 21, 2)]


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar in a folder of event files, as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def expected(rows: list[dict[str, Any]]) -> dict[str, list[tuple[int, Any]]]:
    curves: dict[str, list[tuple[int, Any]]] = {}
    for row in rows:
        for name, value in scalars(row, ["layer_2", "layer_7"]).items():
            curves.setdefault(name, []).append((row["step"], pytest.approx(value, rel=1e-6)))
    return curves


@pytest.fixture(params=["disk", "object store"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    """A local store, and one in memory that is written by upload like s3."""
    monkeypatch.setattr(event_files, "UPLOAD_SECONDS", 0.05)
    return ArtifactStore(str(tmp_path) if request.param == "disk" else f"memory://{tmp_path.name}")


def fetched(store: ArtifactStore, to: Path) -> Path:
    """The stage's folder of event files on the local disk."""
    folder = store.join(event_files.event_folder("stage3", ID))
    if store.is_local:
        return Path(folder)
    to.mkdir()
    for path in store.fs.find(folder):
        (to / path.rpartition("/")[2]).write_bytes(store.fs.cat_file(path))
    return to


def watch(store: ArtifactStore, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> StageWatch:
    monkeypatch.setattr(trackers, "open_ray", lambda stage: SimpleNamespace(log=lambda *a: None, close=lambda: None))
    progress = Progress(store, ID, "sample")
    stage = Stage(store, ID, "stage3", "stage3", tuple(rows))
    return StageWatch(stage, StageFacts(20, True), progress, 160, ["layer_2", "layer_7"], ("tensorboard",))


def test_event_files_hold_the_rows(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with watch(store, [], monkeypatch) as shown:
        for row in ROWS:
            shown.step(row["samples"] - 8, None)
            shown.step(row["samples"], row)
    curves = events(fetched(store, tmp_path / "copy"))
    assert curves == expected(ROWS)
    assert curves["attention_in_mask/layer_2"][0][0] == 2
    assert (
        f"tensorboard --logdir {store.root.rstrip('/') if store.is_local else 'memory://'}" in capsys.readouterr().out
    )


def kill(shown: StageWatch) -> None:
    """The state after a kill: the events so far are written and uploaded, and no thread goes on."""
    for tracker in shown._trackers:
        if isinstance(tracker, event_files.EventFiles):
            tracker._writer.flush()
            if tracker._aside is not None:
                tracker._stop.set()
                tracker._thread.join()
                tracker._upload()


def test_after_a_resume_each_step_is_there_once(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run was killed after step 14; its last checkpoint was at step 10."""
    first = watch(store, [], monkeypatch)
    for row in ROWS[:7]:
        first.step(row["samples"], row)
    kill(first)
    with watch(store, ROWS[:5], monkeypatch) as second:
        for row in ROWS[5:]:
            second.step(row["samples"], row)
    assert events(fetched(store, tmp_path / "copy")) == expected(ROWS)
    assert len(list(fetched(store, tmp_path / "again").iterdir())) == 1


def test_the_progress_shows_values_and_warnings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ArtifactStore(str(tmp_path))
    waiting = [row | {"data_wait": 0.5} for row in ROWS]
    with watch(store, waiting[:7], monkeypatch) as shown:
        shown._progress._written = float("-inf")
        shown.step(160, waiting[7])
    state = read_progress(store, ID) or {}
    assert state["values"] == {"loss": 2.0625, "tokens/s": 12_345.0}
    assert state["note"].startswith("workers wait for data 50 %")


def test_a_tracker_that_fails_does_not_end_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken:
        def log(self, step: int, values: Any) -> None:
            raise ConnectionError("no route")

        def close(self) -> None:
            raise AssertionError("it was given up")

    monkeypatch.setattr(stage_watch, "open_trackers", lambda names, stage: [Broken()])
    store = ArtifactStore(str(tmp_path))
    with StageWatch(
        Stage(store, ID, "s", "s"), StageFacts(9, False), Progress(store, ID, "sample"), 9, ["a", "b"], ()
    ) as w:
        w.step(1, ROWS[0])
        w.step(2, ROWS[1])
    assert capsys.readouterr().out.count("Broken gets no more metrics of this run: ConnectionError: no route") == 1


def test_a_tracker_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None if name == "wandb" else object())
    check_trackers(["tensorboard", "mlflow"])
    with pytest.raises(ConfigError, match=r"trackers has 'wandb', but the package wandb is not installed.*pip install"):
        check_trackers(["tensorboard", "wandb"])


def test_mlflow_continues_its_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A stand-in for the package, with the functions that are called."""
    logged: list[tuple[str | None, int]] = []
    runs: list[Any] = []
    fake: Any = ModuleType("mlflow")
    fake.set_experiment = lambda name: None
    fake.search_runs = lambda filter_string, output_format: runs
    fake.start_run = lambda run_id, run_name, tags: fake.__setattr__("current", run_id)
    fake.log_metrics = lambda values, step: logged.append((fake.current, step))
    fake.end_run = lambda: None
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    stage = Stage(ArtifactStore(str(tmp_path)), ID, "stage3", "stage3")
    MlflowRun(stage).log(2, {"lm_loss": 1.0})
    metrics = SimpleNamespace(metrics={"samples_step": 2.0})
    runs.append(SimpleNamespace(info=SimpleNamespace(run_id="r"), data=metrics))
    again = MlflowRun(stage)
    for step in (2, 4):
        again.log(step, {"lm_loss": 1.0})
    assert logged == [(None, 2), ("r", 4)]


def test_wandb_continues_its_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    logged: list[int] = []
    fake: Any = ModuleType("wandb")
    run = SimpleNamespace(step=3, log=lambda values, step: logged.append(step), finish=lambda: None)
    asked: dict[str, Any] = {}
    fake.init = lambda **options: asked.update(options) or run
    monkeypatch.setitem(sys.modules, "wandb", fake)
    tracker = WandbRun(Stage(ArtifactStore(str(tmp_path)), ID, "stage3", "stage3"))
    for step in (2, 4):
        tracker.log(step, {"lm_loss": 1.0})
    assert logged == [4]
    assert (asked["id"], asked["resume"]) == (ID[:32], "allow")


def test_a_tracker_that_cannot_end_does_not_end_the_stage(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its error would also hide the one that ends the training."""
    ended = []

    def fail() -> None:
        raise OSError("no route to the server")

    made = [SimpleNamespace(close=fail), SimpleNamespace(close=lambda: ended.append(True))]
    monkeypatch.setattr("pipeline.training.watch.stage_watch.open_trackers", lambda names, stage: made)
    stage = Stage(ArtifactStore(str(tmp_path)), ID, "stage3", "stage3")
    with pytest.raises(KeyError), StageWatch(stage, StageFacts(9, True), SimpleNamespace(), 9, [], []):  # type: ignore[arg-type]
        raise KeyError
    assert ended
    assert "may lack the last metrics of this run: OSError: no route to the server" in capsys.readouterr().out


def test_ray_gauges_get_the_values() -> None:
    sets: dict[str, tuple[float, Any]] = {}
    tags = tags_of("paper", "stage3", ID)
    gauges = RayGauges(tags)
    for name in NAMES:
        fake = SimpleNamespace(set=lambda value, tags, name=name: sets.update({name: (value, tags)}))
        gauges._gauges._gauges[name] = fake
    gauges.log(2, scalars(row_of(2), ["layer_2", "layer_7"]))
    assert sets["step"] == (2.0, tags)
    assert sets["attention_in_mask"][0] == pytest.approx((0.002 + 0.2) / 2)
    assert "mfu" not in sets


def test_names_of_folders_are_short(tmp_path: Path) -> None:
    stage = Stage(ArtifactStore(str(tmp_path)), ID, "stage4_lm", "stage4_lm")
    open_tensorboard(stage).close()
    assert [p.name for p in (tmp_path / "tensorboard").iterdir()] == ["stage4_lm-abababababab"]
