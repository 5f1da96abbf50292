"""agevlm compare and gates, as a user sees them."""

from pathlib import Path

import pytest
import yaml

from pipeline.artifacts.store import Artifact
from pipeline.masks import prices
from pipeline.masks.config import MaskGates
from tests.flows.cli.fixtures_command_line import agevlm
from tests.pipeline.masks.fixtures_dataset import Dataset, make_dataset
from tests.pipeline.report.fixtures_mask_artifacts import make_masks


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Artifact, Artifact]:
    dataset = make_dataset(tmp_path_factory.mktemp("masks"), scenes=60)
    return dataset, make_masks(dataset, 0, MaskGates()), make_masks(dataset, 0, MaskGates(min_sam_iou=0.7))


@pytest.fixture(autouse=True)
def _store(made: tuple[Dataset, Artifact, Artifact], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGEVLM_STORE", made[0].store.root)


def test_compare_tells_what_another_gate_did_and_writes_the_page(
    made: tuple[Dataset, Artifact, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, first, second = made
    monkeypatch.chdir(tmp_path)
    result = agevlm("compare", first.ref.id[:10], second.ref.id[:10])
    assert (result.code, result.error) == (0, "")
    assert "Nothing changed" not in result.output
    lost = first.manifest.counts.rows_out - second.manifest.counts.rows_out
    assert lost > 0
    for words in (
        f"{lost} min_sam_iou",
        "min_sam_iou  0.5     0.7",
        f"in both                  {len(made[0].queries)}",
    ):
        assert words in result.output
    [page] = tmp_path.glob("compare-*.html")
    assert str(page.name) in result.output
    chosen = tmp_path / "own.html"
    assert agevlm("compare", first.ref.id, second.ref.id, "--page", str(chosen)).code == 0
    assert chosen.read_text() == page.read_text()


def test_masks_do_not_differ_from_themselves(made: tuple[Dataset, Artifact, Artifact], tmp_path: Path) -> None:
    result = agevlm("compare", made[1].ref.id, made[1].ref.id, "--page", str(tmp_path / "page.html"))
    assert result.code == 0
    assert "Nothing changed." in result.output


def test_compare_refuses_another_kind_and_an_unknown_id(made: tuple[Dataset, Artifact, Artifact]) -> None:
    dataset, first, _ = made
    result = agevlm("compare", first.ref.id, dataset.subset.ref.id)
    assert result.code == 1
    assert "is of kind subset" in result.error
    assert "no artifact, tag or step is called 'zzz'" in agevlm("compare", first.ref.id, "zzz").error


@pytest.mark.parametrize("kind", ["masks", "segments"])
def test_gates_prints_the_section_of_a_recipe(made: tuple[Dataset, Artifact, Artifact], kind: str) -> None:
    _, first, _ = made
    artifact = first if kind == "masks" else first.store.require(first.manifest.parents["segments"].ref)
    result = agevlm("gates", artifact.ref.id, "--iou", "0.4", "--precision", "0.6")
    assert (result.code, result.error) == (0, "")
    printed = yaml.safe_load(result.output[result.output.index("gates:") :])
    setting = MaskGates(**printed["gates"])
    assert set(printed["gates"]) == set(MaskGates.model_fields)
    assert setting != MaskGates()
    assert "precision of 0.6 at IoU 0.4" in result.output
    assert "too few" in result.output  # masks here


def test_a_stored_price_reads_no_evidence(
    made: tuple[Dataset, Artifact, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(prices, "read_candidates")
    stored = prices.read_prices(made[1])
    assert stored is not None
    for row in stored["prices"][::4]:
        result = agevlm("gates", made[1].ref.id, "--iou", str(row["iou"]), "--precision", str(row["wanted"]))
        assert result.code == int(row["gates"] is None)
        assert f"{stored['masks']} masks of" in result.output


def test_gates_out_of_reach_are_said_so(made: tuple[Dataset, Artifact, Artifact]) -> None:
    result = agevlm("gates", made[1].ref.id, "--iou", "1", "--precision", "1")
    assert result.code == 1
    assert "No setting of the gates reaches a precision of 1 at IoU 1" in result.output


def test_gates_needs_masks_and_a_truth(made: tuple[Dataset, Artifact, Artifact]) -> None:
    result = agevlm("gates", made[0].inventory.ref.id)
    assert result.code == 1
    assert "is of kind inventory; give the id of masks or segments" in result.error
