"""The teachers of mask generation in real sizes on one GPU: images/s, and what each option of SAM's encoder gives.

Run: `python -m tests.bench masks_gpu`. It needs no store and no weights, and takes less than 4 minutes on a GPU of
80 GB. Florence-2-large and SAM ViT-H have random weights and run in bf16; every answer has the same forced number of
tokens. `--tiny` runs the same code on the miniature, also without a GPU.

Prints lines `metric value`:

    masks_gpu.sam.WAY.bN.images_per_second  SAM's encoder alone on N normalised pictures; WAY is package, sdpa or
                                            sdpa_compiled (the time of compiling is printed apart)
    masks_gpu.sam.WAY.bN.peak_share         of the GPU's dense bf16 operations per second (operations of the package's)
    masks_gpu.sam.call_ms                   one picture through resizing, encoder, decoder (4 boxes) and encoding
    masks_gpu.florence.bN.queries_per_second, .tokens_per_second, .peak_share   N queries as one batch
    masks_gpu.models.images_per_second      both models alone, 4 texts an image, the fastest way of each
"""

import argparse
import gc
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from segment_anything import sam_model_registry
from segment_anything.modeling import Sam
from torch.utils.flop_counter import FlopCounterMode
from transformers import BartConfig, Florence2Config, Florence2ForConditionalGeneration
from transformers.models.florence2.configuration_florence2 import Florence2VisionConfig

from model.miniature.florence import build_model, build_processor
from model.miniature.sam import SamSizes, build_sam
from model.teachers.florence import FlorenceSettings, FlorenceTeacher
from model.teachers.polygons import Region
from model.teachers.sam import SamOptions, SamTeacher
from pipeline.training.flops import mfu

TEXTS: Final = 4  # an image
LEAST_SECONDS: Final = 2.0  # of a measurement, warm-up apart
SQUARE, IMAGE_TOKENS = 768, 577  # Florence-2's pictures: side in pixels, tokens
CAPTION = "a man in a red jacket rides a brown horse along the beach while two dogs run behind him"


def large_florence() -> tuple[Florence2ForConditionalGeneration, Any]:
    """A model of Florence-2-large's sizes, and a processor with its picture size and the miniature's vocabulary."""
    processor = build_processor()
    processor.image_processor.size = {"height": SQUARE, "width": SQUARE}
    processor.image_processor.image_seq_length = IMAGE_TOKENS
    vision = Florence2VisionConfig(
        depths=(1, 1, 9, 1),
        embed_dim=(256, 512, 1024, 2048),
        num_heads=(8, 16, 32, 64),
        num_groups=(8, 16, 32, 64),
        projection_dim=1024,
    )
    text = BartConfig(
        vocab_size=51289,
        d_model=1024,
        encoder_layers=12,
        decoder_layers=12,
        encoder_attention_heads=16,
        decoder_attention_heads=16,
        encoder_ffn_dim=4096,
        decoder_ffn_dim=4096,
        max_position_embeddings=4096,
        forced_eos_token_id=None,
    )
    config = Florence2Config(vision_config=vision, text_config=text, image_token_id=processor.image_token_id)
    return Florence2ForConditionalGeneration(config), processor


def tiny_florence() -> tuple[Florence2ForConditionalGeneration, Any]:
    """The miniature."""
    processor = build_processor()
    return build_model(processor), processor


def wait(device: torch.device) -> None:
    """Let the device finish."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(call: Callable[[], Any], device: torch.device, least: float) -> float:
    """Seconds of one call, after two that warm up."""
    for _ in range(2):
        call()
    wait(device)
    start, calls = time.perf_counter(), 0
    while calls < 2 or time.perf_counter() - start < least:
        call()
        wait(device)
        calls += 1
    return (time.perf_counter() - start) / calls


def operations_of(call: Callable[[], Any]) -> float:
    """Floating-point operations of a call, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


def report(name: str, value: float) -> None:
    """Print one figure."""
    print(f"masks_gpu.{name} {value:.4g}", flush=True)


def report_peak(name: str, operations: float, seconds: float, device: torch.device) -> None:
    """Print the share of the peak, where the device's is known."""
    share = mfu(operations, seconds, torch.cuda.get_device_name(device), 1) if device.type == "cuda" else None
    if share is not None:
        report(f"{name}.peak_share", share)


def measure_sam(sam: Sam, sizes: Sequence[int], device: torch.device, least: float) -> float:
    """Print the encoder's figures for each way and size of batch; returns seconds of an image in the fastest one."""
    side, way_of = sam.image_encoder.img_size, {}
    teacher, operations, fastest = SamTeacher(sam, "box", "bf16"), 0.0, float("inf")
    for way, options in (
        ("package", SamOptions()),
        ("sdpa", SamOptions(attention="sdpa")),
        ("sdpa_compiled", SamOptions(attention="sdpa", compiled=True)),
    ):
        teacher = SamTeacher(sam, "box", "bf16", options)  # the attention is replaced in place: the package's is first
        for size in sizes[-1:] if options.compiled else sizes:
            pixels = torch.randn(size, 3, side, side, device=device)

            def encode(teacher: SamTeacher = teacher, pixels: torch.Tensor = pixels) -> None:
                with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16):  # as inference_mode, countable
                    teacher._encoder(pixels)

            start = time.perf_counter()
            if options.compiled:
                encode()
                wait(device)
                report("sam.compile_seconds", time.perf_counter() - start)
            elif not operations:
                operations = operations_of(encode) / size
            seconds = seconds_of(encode, device, least) / size
            way_of[way, size], fastest = seconds, min(fastest, seconds)
            report(f"sam.{way}.b{size}.images_per_second", 1 / seconds)
            report_peak(f"sam.{way}.b{size}", operations, seconds, device)
    first, last = sizes[0], sizes[-1]
    report("sam.batch_gives", way_of["sdpa", first] / way_of["sdpa", last])
    report("sam.sdpa_gives", way_of["package", last] / way_of["sdpa", last])
    report("sam.compile_gives", way_of["sdpa", last] / way_of["sdpa_compiled", last])
    return fastest + measure_prompts(SamTeacher(sam, "box", "bf16"), device, least)


def measure_prompts(teacher: SamTeacher, device: torch.device, least: float) -> float:
    """Print seconds of a whole call for one picture; returns those of the decoder and of the masks' encoding."""
    image = np.random.default_rng(0).integers(0, 255, size=(768, 1024, 3), dtype=np.uint8)
    boxes = [(50.0 + 40 * n, 60.0, 400.0 + 90 * n, 500.0) for n in range(TEXTS)]
    regions = [Region(((x0, y0, x1, y0, x1, y1, x0, y1),)) for x0, y0, x1, y1 in boxes]
    embedding = teacher.encode_image(image)
    decoding = seconds_of(lambda: list(teacher.segment(embedding, regions)), device, least)
    whole = seconds_of(lambda: list(teacher.segment(teacher.encode_image(image), regions)), device, least)
    report("sam.decode_ms", decoding * 1000)
    report("sam.call_ms", whole * 1000)
    return decoding


def measure_florence(
    teacher: FlorenceTeacher, sizes: Sequence[int], device: torch.device, least: float
) -> tuple[float, float]:
    """Print figures for each size of batch; returns seconds of a picture and of a query in the fastest."""
    tokens = teacher.settings.max_new_tokens
    teacher.model.generation_config.min_new_tokens = tokens  # random weights may end at any time
    random = np.random.default_rng(0)
    pictures = [Image.fromarray(random.integers(0, 255, size=(480, 640, 3), dtype=np.uint8)) for _ in range(max(sizes))]
    looking, asking = float("inf"), float("inf")
    for size in sizes:
        seen = teacher.encode_images(pictures[:size])
        queries = [f"{CAPTION} {number}" for number in range(size)]
        look = seconds_of(lambda n=size: teacher.encode_images(pictures[:n]), device, least / 2)
        answers = teacher.ask(seen, queries)
        if any(answer.tokens != tokens for answer in answers):
            raise RuntimeError(f"answers have {[answer.tokens for answer in answers]} tokens instead of {tokens}")
        operations = operations_of(lambda s=seen, q=queries: teacher.ask(s, q))
        ask = seconds_of(lambda s=seen, q=queries: teacher.ask(s, q), device, least)
        report(f"florence.b{size}.pictures_per_second", size / look)
        report(f"florence.b{size}.queries_per_second", size / ask)
        report(f"florence.b{size}.tokens_per_second", size * tokens / ask)
        report_peak(f"florence.b{size}", operations, ask, device)
        looking, asking = min(looking, look / size), min(asking, ask / size)
    return looking, asking


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures; nothing is asserted, because a GPU's figures are compared with its own only."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench masks_gpu", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="the miniature teachers, to try the script without a GPU")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of every answer (default 64)")
    parser.add_argument("--beams", type=int, default=1, help="beams of Florence's search (default 1)")
    said = parser.parse_args(arguments)
    if not said.tiny and not torch.cuda.is_available():
        print("needs a GPU; `python -m tests.bench masks_gpu --tiny` tries the code without one")
        return 0
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    print(f"masks_gpu.device {torch.cuda.get_device_name(device) if device.type == 'cuda' else 'cpu'}")
    torch.manual_seed(0)
    least = 0.05 if said.tiny else LEAST_SECONDS
    settings = FlorenceSettings(max_new_tokens=12 if said.tiny else said.tokens, beams=said.beams)
    with device:
        model, processor = tiny_florence() if said.tiny else large_florence()
    florence = FlorenceTeacher(model.to(device, torch.bfloat16), processor, settings)
    looking, asking = measure_florence(florence, (1, 4) if said.tiny else (1, 4, 16, 64), device, least)
    del model, florence
    gc.collect()
    with device:
        sam = build_sam(SamSizes()) if said.tiny else sam_model_registry["vit_h"]()
    encoding = measure_sam(sam.to(device), (1, 2) if said.tiny else (1, 4, 8), device, least)
    report("models.images_per_second", 1 / (looking + TEXTS * asking + encoding))
    if device.type == "cuda":
        report("memory_gib", torch.cuda.max_memory_allocated(device) / 2**30)
    return 0
