"""Rows of metrics: counts of batches, the share of padding, and MFU."""

from types import SimpleNamespace

import pytest
import torch

from model.stage_table import STAGES
from pipeline.training.data.batches import Batch, Collator
from pipeline.training.data.pack_reader import PackReader
from pipeline.training.flops import Sizes, Work, flops_per_step, peak_flops
from pipeline.training.student import join_backbones
from pipeline.training.watch import work
from pipeline.training.watch.metrics import METRICS, SPEED, Log
from pipeline.training.watch.work import COUNTS, Utilisation, count
from tests.pipeline.training.fixtures_tiny_training import local_index, make_pack
from tests.pipeline.training.test_loop import STUDENT


@pytest.fixture(scope="module")
def batch(backbones: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Batch:
    """Eight rows, two of them text only."""
    folder = tmp_path_factory.mktemp("pack")
    _, processor = join_backbones(STUDENT, backbones["text"], backbones["vision"], 0)
    guide = make_pack(folder, processor, 8, text_only=5, guided_every=2)
    reader = PackReader(local_index(folder))
    rows = [reader.row(address) for address in _addresses(8)]
    return Collator(processor.image_processor, processor.tokenizer.pad_token_id, guide)(rows)


def _addresses(count: int) -> list:  # type: ignore[type-arg]
    from pipeline.training.data.order import Address

    return [Address(0, row) for row in range(count)]


def test_counts_are_those_of_the_rows(batch: Batch) -> None:
    lengths = [int(row.sum()) for row in batch.attention_mask]
    found = count(batch)
    assert set(found) == set(COUNTS)
    assert found["rows"] == 8
    assert found["tokens"] + found["padding_tokens"] == 8 * max(lengths)
    assert found["attended"] == sum(n * n for n in lengths)
    assert found["image_tokens"] == sum(lengths) - lengths[0] - lengths[5]
    assert found["query_tokens"] == int(batch.query_mask.sum()) > 0  # type: ignore[union-attr]


def log_of(mfu: object = None) -> Log:
    return Log(1, torch.device("cpu"), "mean", *([mfu] if mfu else []))  # type: ignore[arg-type]


def test_a_row_has_every_column_and_the_share_of_padding(batch: Batch) -> None:
    asked: list[tuple[dict[str, float], float]] = []
    log = log_of(lambda counts, seconds: asked.append((dict(counts), seconds)) or 0.5)
    for _ in range(2):
        log.window.add(**count(batch), wait_seconds=0.0)
    log.window.add_tensors(counted_rows=torch.tensor([2.0 * batch.guided_rows]))
    row = log.row(2, 16, 0.1, 1.0)
    assert set(METRICS.names) | set(SPEED.names) == set(row)
    sizes = batch.attention_mask.numel()
    assert row["padding"] == pytest.approx((sizes - batch.tokens) / sizes)
    assert (row["images"], row["target_tokens"]) == (2 * batch.images, 2 * batch.target_tokens)
    assert row["mfu"] == 0.5
    assert asked[0][0]["rows"] == 16


def test_mfu_is_known_on_a_known_gpu_only(
    batch: Batch, backbones: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = join_backbones(STUDENT, backbones["text"], backbones["vision"], 0)
    row, counts = STAGES["stage4_lm"], count(batch)
    assert Utilisation(model.config, row, torch.device("cpu"), 1)(counts, 1.0) is None
    sizes = SimpleNamespace(of=lambda config: TINY)
    monkeypatch.setattr(work, "Sizes", sizes)
    for name, known in (("NVIDIA H100 80GB HBM3", True), ("Some other card", False)):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        value = Utilisation(model.config, row, torch.device("cuda:0"), 2)(counts, 4.0)
        assert (value is not None) == known
        if value is not None:
            lengths = batch.attention_mask.sum(1)
            data = Work(
                rows=8,
                images=6,
                tokens=batch.tokens,
                target_tokens=batch.target_tokens,
                query_tokens=int(counts["query_tokens"]),
                attended=int((lengths**2).sum()),
                image_tokens=int(counts["image_tokens"]),
            )
            assert value == pytest.approx(flops_per_step(TINY, row, data).model / (4 * 2 * (peak_flops(name) or 0)))


TINY = Sizes(64, 128, 4, 4, 2, 16, 500, False, (1, 4), 64, 16, (1, 1, 1, 1), (8, 16, 32, 64))
