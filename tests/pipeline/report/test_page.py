"""The page as a whole: made by the real step from artifacts of every kind, looked at as text."""

import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipeline.artifacts.manifest import Counts
from pipeline.artifacts.spec import ArtifactRef, StepSpec
from pipeline.artifacts.staging import Staging
from pipeline.artifacts.store import Artifact
from pipeline.plan.recipe import load_recipe
from pipeline.report.collect import collect
from pipeline.report.formatting import CUT, LONGEST_TEXT, clip, short_count
from pipeline.report.page import make_page
from tests.pipeline.report.fixtures_artifacts import Fabric, page_of

VOID = {"meta", "link", "img", "br", "hr", "input"}
LOADING = {"src", "href", "xlink:href", "srcset", "data", "poster", "action", "background"}


class Reader(HTMLParser):
    """Collects what the page would load or run, its text, ids and anchors, and checks that its elements nest."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.anchors: list[str] = []
        self.handlers: list[str] = []
        self.unnamed: list[str] = []
        self.lazy = 0
        self._open: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID and not (self.get_starttag_text() or "").endswith("/>"):
            self._open.append(tag)
        values = {name: value or "" for name, value in attrs}
        self.handlers += [name for name in values if name.startswith("on")]
        self.lazy += values.get("loading") == "lazy"
        if "id" in values:
            self.ids.append(values["id"])
        for name in LOADING & values.keys():
            (self.anchors if values[name].startswith("#") else self.loads).append(values[name])
        named = {"img": "alt", "svg": "aria-label"}.get(tag)
        if named and not values.get(named):
            self.unnamed.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def fabric(tmp_path_factory: pytest.TempPathFactory) -> Fabric:
    return Fabric(tmp_path_factory.mktemp("fabric"))


@pytest.fixture(scope="module")
def artifact(fabric: Fabric) -> Artifact:
    return fabric.report()


@pytest.fixture(scope="module")
def page(artifact: Artifact) -> str:
    return page_of(artifact)


@pytest.fixture(scope="module")
def reader(page: str) -> Reader:
    return Reader(page)


def test_nothing_is_loaded_or_run(page: str, reader: Reader) -> None:
    assert {load.split(":")[0] for load in reader.loads} == {"data"}
    assert not {"script", "iframe", "object", "embed", "base", "form"} & set(reader.tags)
    assert reader.handlers == []
    style = page.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'" in page
    assert "http://" not in page
    assert "https://" not in page


def test_anchors_lead_somewhere_and_pictures_are_described(reader: Reader) -> None:
    assert len(reader.ids) == len(set(reader.ids))
    assert {a[1:] for a in reader.anchors} <= set(reader.ids)
    assert reader.unnamed == []
    assert reader.lazy == 0  # print and a full-page picture would leave them blank
    assert reader.tags.count("img") > 20
    assert reader.tags.count("h1") == 1


def test_every_step_stands_in_the_graph_and_in_the_table(fabric: Fabric, artifact: Artifact, page: str) -> None:
    steps = [s for s in fabric.plan() if s.key != "report"]
    assert len(steps) == 22
    for step in steps:
        assert f'id="step-{step.key}"' in page
        assert f'href="#step-{step.key}"' in page
        assert page.count(step.id[:12]) >= 2
        made = fabric.made[step.key].manifest
        row = page.split(f'<tr id="step-{step.key}">')[1].split("</tr>")[0]
        assert f'<td class="n">{made.counts.rows_in}</td>' in row
        assert f'<td class="n">{made.counts.rows_out}</td>' in row
        assert str(made.provenance.job) in row
    assert page.count("truncated\u00a03") == 3
    assert artifact.ref.id in page
    counts = artifact.manifest.counts
    assert (counts.unit, counts.rows_in, counts.rows_out) == ("artifact", 22, 22)


def test_the_masks_are_counted_and_shown(fabric: Fabric, page: str, reader: Reader) -> None:
    for name in ("pretrain", "instruct"):
        rows = fabric.mask_rows(name)
        for status in ("ok", "low_quality", "no_region"):
            number = sum(row["status"] == status for row in rows)
            assert number
            assert re.search(rf"{status.replace('_', ' ')}\s+{number} \(", reader.text)
        assert f"= {len(rows)}." in reader.text
    assert page.count("data:image/webp;base64,") > 20
    assert "White line: the truth" in reader.text


def test_the_findings_speak_of_masks_answers_and_attention(artifact: Artifact, reader: Reader) -> None:
    findings = artifact.manifest.statistics["findings"]
    assert [f.split("?")[0] for f in findings[:2]] == [
        "Does guided attention help to answer yes/no questions",
        "Does guided attention help to answer open questions",
    ]
    words = " ".join(findings)
    for expected in ("mean IoU", "on the same questions", "Attention inside the object", "Against CA-Baseline"):
        assert expected in words
    for finding in findings:
        assert " ".join(finding.split()) in reader.text


def test_every_variant_answers_beside_the_others(page: str, reader: Reader) -> None:
    assert page.count('class="example"') == 6
    for name in ("CA-Baseline", "AGE-VLM", "AGE-VLM-LM"):
        assert page.count(f"Where {name} looked for") == 6
    for title in ("Language loss", "Guidance loss", "Attention inside the mask", "Differences on the same questions"):
        assert title in reader.text
    assert "attention on padding" in reader.text  # the score; the curves of padding are all 0 and left out
    assert "Attention on padding, per cross-attention layer" not in reader.text


def test_the_page_is_small_and_the_same_again_but_for_its_date(artifact: Artifact, page: str, tmp_path: Path) -> None:
    assert len(page) < 1_500_000
    inputs = {name: artifact.store.require(parent.ref) for name, parent in artifact.manifest.parents.items()}
    run = collect("miniature", ("ca_baseline", "age_vlm", "age_vlm_lm"), inputs)
    moments = [datetime(2020, 1, day, tzinfo=UTC) for day in (1, 2)]
    first, second = (make_page(run, artifact.ref.id, moment, {})[0] for moment in moments)
    assert first != second
    assert first.replace("2020-01-01", "2020-01-02") == second


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    evil = ' <script>alert(\'x\')</script> " onload="y" {{ 7*7 }} </svg>'
    page = page_of(Fabric(tmp_path, scenes=10, evil=evil).report())
    found = Reader(page)
    assert "script" not in found.tags
    assert found.handlers == []
    assert "<script>alert('x')</script>" in found.text
    assert "{{ 7*7 }}" in found.text


def test_long_texts_are_cut_and_the_page_says_so(tmp_path: Path, reader: Reader) -> None:
    endless = " so to speak" * 200
    found = Reader(page_of(Fabric(tmp_path, scenes=10, evil=endless).report()))
    assert endless.strip() not in found.text
    longest = max(len(words) for words in found.words if "so to speak so to speak" in words)
    assert longest <= LONGEST_TEXT
    assert found.text.count(CUT) == 3  # under the pictures of each data set, and at the examples
    assert CUT not in reader.text


@pytest.mark.parametrize(
    ("text", "shown"),
    [("abcd", "abcd"), ("abcde", "abc\u2026"), ("ab  cde", "ab\u2026"), ("", "")],
)
def test_a_text_that_fits_is_not_touched(text: str, shown: str) -> None:
    assert clip(text, 4) == shown


@pytest.mark.parametrize(
    ("number", "shown"),
    [(7, "7"), (99_999, "99\u202f999"), (100_000, "100k"), (150_400, "150k"), (999_499, "999k"), (2_500_000, "2.5M")],
)
def test_large_numbers_are_short_in_the_graph(number: int, shown: str) -> None:
    assert short_count(number) == shown


def test_the_command_and_the_recipe_stand_on_the_page(tmp_path: Path, reader: Reader) -> None:
    recipe = "name: miniature\nseed: 3 # <b>as it was</b>\n"
    command = {"deployment": "agevlm/full-recipe", "parameters": {"recipe": "miniature"}, "recipe": recipe}
    variant = load_recipe("miniature").override(variants=["age_vlm"])
    found = Reader(page_of(Fabric(tmp_path, variant, scenes=6, command=command).report()))
    assert "prefect deployment run agevlm/full-recipe -p recipe=miniature" in found.text
    assert "seed: 3 # <b>as it was</b>" in found.text
    assert "no command is recorded" not in found.text
    assert "no command is recorded" in reader.text
    assert "prefect deployment run" not in reader.text


def test_a_step_of_an_unknown_kind_is_drawn_listed_and_reported(artifact: Artifact) -> None:
    masks = artifact.store.require(artifact.manifest.parents["masks/masks-pretrain"].ref)
    spec = StepSpec(step="polish", revision=1, params={"shine": 7}, inputs={"masks": masks.ref.id})
    ref = ArtifactRef(kind="polished", name="pretrain", id=spec.id())
    staging = Staging(artifact.store, ref, spec, 0, {"masks": masks})
    staging.write_bytes("masks.bin", b"shiny")
    made = staging.publish(Counts(unit="gloss", rows_in=5, rows_out=4, rejected={"dull": 1}))
    run = collect("miniature", ("age_vlm",), {"masks/masks-pretrain": masks, "polished/polish-pretrain": made})
    page, _ = make_page(run, "f" * 64, datetime(2020, 1, 1, tzinfo=UTC), {})
    found = Reader(page)
    assert "step-polish-pretrain" in found.ids
    assert 'class="node c-other"' in page
    assert "dull\u00a01" in page
    assert "shine: 7" in page
    assert '<span class="pill c-other">other</span>' in page


@pytest.mark.parametrize(
    ("kinds", "present", "absent"),
    [
        ({"inventory", "subset", "segments", "masks"}, {"graph", "steps", "masks"}, {"training", "evaluation"}),
        ({"pack", "checkpoint"}, {"training"}, {"masks", "evaluation"}),
        ({"inventory", "evaluation"}, {"evaluation"}, {"masks", "training"}),
        ({"inventory"}, {"graph", "steps", "limits", "reproduce"}, {"masks", "training", "evaluation"}),
    ],
)
def test_sections_without_data_are_left_out(
    fabric: Fabric, kinds: set[str], present: set[str], absent: set[str]
) -> None:
    found = Reader(page_of(fabric.report(keep=kinds)))
    assert present <= set(found.ids)
    assert not absent & set(found.ids)
    assert {a[1:] for a in found.anchors} <= set(found.ids)


def test_one_variant_has_nothing_to_be_compared_with(tmp_path: Path) -> None:
    recipe = load_recipe("miniature").override(variants=["age_vlm_lm"])
    found = Reader(page_of(Fabric(tmp_path, recipe, scenes=10).report()))
    assert "Differences on the same questions" not in found.text
    assert "Against" not in found.text
    assert "Variant trained" in found.text


def test_masks_of_the_truth_speak_of_no_models(tmp_path: Path) -> None:
    recipe = load_recipe("miniature").override(teacher={"kind": "truth"})
    page = page_of(Fabric(tmp_path, recipe, scenes=10).report(keep={"segments", "masks"}))
    assert "The masks are the source&#39;s own" in page
    settings = page.split("teachers' settings</h4>")[1].split("</table>")[0]
    assert "<td>kind</td>" in settings
    assert "<td>max_query_characters</td>" in settings
    assert "<td>beams</td>" not in settings


def test_miniature_teachers_on_photographs_are_called_unfit(tmp_path: Path) -> None:
    from pipeline.plan.fingerprints import Fingerprints

    recipe = load_recipe("photos").override(teacher={"kind": "florence_sam"})
    made = Fabric(tmp_path, recipe, scenes=12)
    shipped = Fingerprints(tmp_path / "cache").weights("sam", "miniature")
    made.fingerprints["weights.sam"] = shipped
    found = Reader(page_of(made.report()))
    assert "The teachers here are the miniature ones" in found.text
    assert "not fit to teach from" in found.text
    assert "The images are rendered" not in found.text
    assert found.text.count("Every query is accounted for") == 2
