"""The chat format: exact spans, and the same text and tokens as transformers."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import ConfigError, DataError
from pipeline.packing.chat import ChatFormat
from pipeline.packing.rows import make_row
from pipeline.sources.records import Turn
from tests.pipeline.packing.fixtures_tokenizer import CHATML, LLAMA32, write_backbone

TEMPLATES = {"llama": LLAMA32, "chatml": CHATML, "default": None}


@pytest.fixture(scope="module")
def formats(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ChatFormat]:
    folder = tmp_path_factory.mktemp("backbones")
    return {name: ChatFormat(write_backbone(folder / name, template)) for name, template in TEMPLATES.items()}


words = st.text(alphabet=st.sampled_from("user assistant\n. Is\u00e9\U0001f600<|{%}"), max_size=20).map(str.strip)
turns = st.lists(st.builds(Turn, words, words.filter(bool)), min_size=1, max_size=4)


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(sorted(TEMPLATES)), turns)
def test_spans_are_exact_even_where_words_repeat(formats: dict[str, ChatFormat], name: str, said: list[Turn]) -> None:
    rendered = formats[name].render(said)
    for number, turn in enumerate(said):
        question, answer, target = rendered.questions[number], rendered.answers[number], rendered.targets[number]
        assert rendered.text[slice(*question)] == turn.question
        assert rendered.text[slice(*answer)] == turn.answer
        assert rendered.text[slice(*target)] == turn.answer + "<|eot_id|>"
        assert rendered.text[: question[0]].endswith(("user\n", "user<|end_header_id|>\n\n"))
        assert rendered.text[: answer[0]].endswith(("assistant\n", "assistant<|end_header_id|>\n\n"))
    edges = [edge for q, a in zip(rendered.questions, rendered.answers, strict=True) for edge in (*q, *a)]
    assert edges == sorted(edges)


def test_a_pack_has_a_fixed_date_and_not_the_current_one(formats: dict[str, ChatFormat]) -> None:
    assert "Today Date: 26 Jul 2024\n" in formats["llama"].render([Turn("Q", "A")]).text


def test_a_system_prompt_comes_first_and_is_not_a_target(tmp_path: Path) -> None:
    chat = ChatFormat(write_backbone(tmp_path), "You see pictures.")
    rendered = chat.render([Turn("Q", "A")])
    assert "You see pictures." in rendered.text[: rendered.questions[0][0]]
    assert [rendered.text[slice(*span)] for span in rendered.targets] == ["A<|eot_id|>"]


def test_a_template_in_the_tokenizers_configuration_is_used(tmp_path: Path) -> None:
    folder = write_backbone(tmp_path, None)
    file = folder / "tokenizer_config.json"
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": CHATML}]
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": named}))
    assert ChatFormat(folder).render([Turn("Q", "A")]).text.startswith("<|start_header_id|>user\nQ")


def test_faults_of_a_backbone_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no tokenizer\.json"):
        ChatFormat(tmp_path)
    folder = write_backbone(tmp_path / "a", "{% for %}")
    with pytest.raises(ConfigError, match="is broken"):
        ChatFormat(folder)
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"tokenizer_config\.json is not JSON"):
        ChatFormat(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match="is not a tokenizer"):
        ChatFormat(folder)
    refusing = ChatFormat(write_backbone(tmp_path / "b", "{{ raise_exception('alternate, please') }}"))
    with pytest.raises(ConfigError, match="alternate, please"):
        refusing.render([Turn("Q", "A")])
    twice = "{% for message in messages %}{{ message['content'] + message['content'] }}{% endfor %}"
    with pytest.raises(ConfigError, match="exactly once"):
        ChatFormat(write_backbone(tmp_path / "c", twice)).render([Turn("Q", "A")])


def test_a_template_runs_in_a_sandbox(tmp_path: Path) -> None:
    escape = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    with pytest.raises(ConfigError, match="unsafe"):
        ChatFormat(write_backbone(tmp_path, escape)).render([Turn("Q", "A")])


def test_a_template_that_changes_words_is_refused(tmp_path: Path) -> None:
    lower = "{% for message in messages %}{{ message['content'] | lower }};{% endfor %}"
    chat = ChatFormat(write_backbone(tmp_path, lower))
    assert chat.render([Turn("q", "a")]).text == "q;a;"
    with pytest.raises(DataError, match="changes the words"):
        chat.render([Turn("Q", "A")])
    with pytest.raises(DataError, match="changes the words"):
        ChatFormat(write_backbone(tmp_path / "trims")).render([Turn(" Q", "A")])


def test_transformers_renders_and_tokenizes_the_same(formats: dict[str, ChatFormat], tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from model.agevlm.image_processing_agevlm import AgeVlmImageProcessor
    from model.agevlm.processing_agevlm import AgeVlmProcessor

    said = [
        Turn("Is there a red circle?", "Yes, a red circle \u2014 \u00e9\U0001f600."),
        Turn("", "No"),
        Turn("Is", "Is"),
    ]
    messages = [
        {"role": role, "content": words}
        for turn in said
        for role, words in (("user", turn.question), ("assistant", turn.answer))
    ]
    for name, template in TEMPLATES.items():
        if name == "llama":
            continue  # it writes the current date; the next test fixes the date
        reference = AutoTokenizer.from_pretrained(write_backbone(tmp_path / name, template))
        rendered = formats[name].render(said)
        encoding = formats[name].tokenizer.encode(rendered.text, add_special_tokens=False)
        processor = AgeVlmProcessor(AgeVlmImageProcessor(), reference)
        expected = processor.encode_chat(messages)
        assert rendered.text == expected.text
        assert encoding.ids == expected.input_ids
        assert list(encoding.offsets) == expected.offsets
        row = make_row(formats[name], said, 4096)
        assert row.input_ids == expected.input_ids
        assert row.target == expected.targets
        spans = [span for pair in zip(rendered.questions, rendered.answers, strict=True) for span in pair]
        assert [s for s in spans if s[0] < s[1]] == [s for s in expected.message_spans if s[0] < s[1]]


def test_transformers_renders_llamas_template_the_same_with_that_date(
    formats: dict[str, ChatFormat], tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    reference = AutoTokenizer.from_pretrained(write_backbone(tmp_path))
    messages = [{"role": "user", "content": "Is there?"}, {"role": "assistant", "content": "Yes"}]
    for prompt in (False, True):
        text = reference.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=prompt, date_string="26 Jul 2024"
        )
        assert formats["llama"].text(messages, prompt) == text
