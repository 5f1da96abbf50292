"""Memory of one worker in a training stage, by formula: weights, gradients, optimizer, activations and workspace."""

from dataclasses import dataclass

from model.stage_table import PARTS, StageRow
from pipeline.plan.costs.activations import Formats, Kept, MicroBatch, Precision, kept
from pipeline.plan.costs.figures import Figure, quantity
from pipeline.plan.costs.student import Student
from pipeline.training.flops import STEM

CUDA_CONTEXT = 2**30  # bytes; CUDA's context, cuBLAS and NCCL: an assumption
MOMENTS = 8  # bytes per trained parameter: AdamW's two moments in fp32


@dataclass(frozen=True)
class Sharing:
    """The model's distribution over the workers. workers: of the whole stage; sharded: FSDP2 holds a part on each.

    accumulates: a global batch is more than one micro-batch on each worker.
    """

    workers: int = 1
    sharded: bool = False
    checkpointing: bool = False
    accumulates: bool = False
    gpu: bool = False


@dataclass(frozen=True)
class Memory:
    """The largest sum at one moment of a step, and its parts, in bytes of one worker."""

    weights: Figure
    gradients: Figure
    optimizer: Figure
    activations: Figure
    workspace: Figure
    peak: Figure

    @property
    def parts(self) -> list[Figure]:
        """All figures, the peak last."""
        return [self.weights, self.gradients, self.optimizer, self.activations, self.workspace, self.peak]

    @property
    def bytes(self) -> int:
        """The peak."""
        return int(self.peak.value or 0)


def memory(student: Student, row: StageRow, batch: MicroBatch, precision: Precision, sharing: Sharing) -> Memory:
    """The memory of a step.

    Parameters, their gradients and AdamW's moments are in fp32 in every precision. Gradients come into being while
    activations are freed, so the peak is the larger of two moments: the end of the forward pass (with the logits, and
    the gradient of the embedding, which comes first), and the end of the backward pass. With several micro-batches per
    step, and with DDP, gradients are there all the time.
    """
    formats = Formats.of(precision, sharing.gpu)
    total, trained = student.total, sum(student.trainable(row).values())
    shards = sharing.workers if sharing.sharded else 1
    over = f" / {shards} workers" if shards > 1 else ""
    weights, gradients, moments = 4 * total // shards, 4 * trained // shards, MOMENTS * trained // shards

    found = kept(student, row, batch, formats)
    saved = [k.input if sharing.checkpointing and k.block else k.bytes for k in found]
    pixels = batch.images * 3 * student.sizes.image_size**2 * 4
    copies = _copies(student, row, found, formats, sharing)
    activations = sum(saved) + pixels + copies
    gathered, gathered_how = _gathered(student, precision, sharing)
    block = max((k.bytes for k in found if k.block), default=0) if sharing.checkpointing else 0
    logits = batch.target_tokens * student.sizes.vocabulary * (4 if formats.product == 4 else 6)
    embedding = 4 * student.embedding * int(row.language_model)

    lasting = sharing.accumulates or (sharing.workers > 1 and not sharing.sharded)
    first = _first_stage(student, batch, formats)
    moments_of_step = {
        "the loss": activations + logits + (gradients if lasting else embedding),
        "the first block's backward pass": gradients + pixels + block + first if row.vision_encoder == "whole" else 0,
        "the encoder's first blocks": pixels + first + (gradients if lasting else 0),
        "the end of the backward pass": pixels + gradients + block,
    }
    when = max(moments_of_step, key=lambda name: moments_of_step[name])
    context = CUDA_CONTEXT if sharing.gpu else 0
    peak = weights + moments + gathered + moments_of_step[when] + context
    held = gradients if lasting or when != "the loss" else embedding
    used = activations if when == "the loss" else pixels
    workspace = peak - weights - moments - held - used

    sizes = student.sizes
    keeps = "inputs of blocks" if sharing.checkpointing else "all inputs"
    return Memory(
        weights=Figure("weights", weights, "bytes", f"4 bytes x {total:,} parameters{over}"),
        gradients=Figure("gradients", gradients, "bytes", f"4 bytes x {trained:,} trained parameters{over}"),
        optimizer=Figure("optimizer", moments, "bytes", f"AdamW: 2 x 4 bytes x {trained:,} trained parameters{over}"),
        activations=Figure(
            "activations",
            activations,
            "bytes",
            f"{batch.rows} rows x {batch.longest} tokens, {batch.images} images of {sizes.image_size} px, {precision}: "
            f"{keeps} {quantity(sum(saved), 'bytes')} ({_by_part(found, saved)}) + pixels {quantity(pixels, 'bytes')}"
            + (f" + bf16 copies of weights {quantity(copies, 'bytes')}" if copies else ""),
        ),
        workspace=Figure(
            "workspace",
            workspace,
            "bytes",
            f"at {when}: logits of {batch.target_tokens} target tokens {quantity(logits, 'bytes')}, "
            f"one block {quantity(block or first, 'bytes')}{gathered_how}"
            + (f", CUDA {quantity(context, 'bytes')} (assumed)" if context else ""),
        ),
        peak=Figure(
            "peak",
            peak,
            "bytes",
            f"at {when}: weights + optimizer + {quantity(held, 'bytes')} of gradients + {quantity(used, 'bytes')} of "
            "activations + workspace",
        ),
    )


def _copies(student: Student, row: StageRow, found: list[Kept], formats: Formats, sharing: Sharing) -> int:
    """Bytes of the bf16 copies of weights that autocast holds at the end of the forward pass.

    Modules on the way to a gradient keep theirs. With checkpointing only trained weights stay, in autocast's cache.
    """
    if not formats.casts:
        return 0
    if sharing.checkpointing:
        blocks = sum(student.trainable(row).values()) - student.embedding * int(row.language_model)
        return 2 * (blocks + student.embedding)
    return 2 * sum(k.weights for k in found)


def _gathered(student: Student, precision: Precision, sharing: Sharing) -> tuple[int, str]:
    """Bytes of whole parameters on a worker of FSDP2, and the words for it."""
    if not sharing.sharded:
        return 0, ""
    width = 2 if precision == "bf16_parameters" else 4
    inside = student.sizes.text_layers * student.text_layer + student.parameters()[PARTS[2]]
    inside += sum(student.vision_stage(stage) for stage in range(4))
    root = width * (student.total - inside)
    blocks = 3 * width * max(student.text_layer, student.vision_block(student.sizes.vision_channels[3]))
    words = f", gathered parameters {quantity(root, 'bytes')} outside of blocks + 3 blocks {quantity(blocks, 'bytes')}"
    return root + blocks, words


def _first_stage(student: Student, batch: MicroBatch, formats: Formats) -> int:
    """Bytes of the tensors of one block of the encoder's first stage while it runs: it has the most cells."""
    sizes = student.sizes
    cells = batch.images * (sizes.image_size // STEM) ** 2
    wide = 8  # both sides of GELU, 4 C each
    return cells * sizes.vision_channels[0] * (wide * formats.product + 2 * formats.stream)


def _by_part(found: list[Kept], saved: list[int]) -> str:
    parts: dict[str, int] = {}
    for module, size in zip(found, saved, strict=True):
        parts[module.part] = parts.get(module.part, 0) + size
    largest = sorted(parts.items(), key=lambda item: -item[1])
    return ", ".join(f"{part} {quantity(size, 'bytes')}" for part, size in largest[:3] if size)
