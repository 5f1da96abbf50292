"""Layouts of weights by the names of their tensors: the teachers' own, and those that are often taken for them."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from model.teachers.weights.header import FLOATS, Tensor
from model.teachers.weights.sam_layout import Shapes

SAM, FLORENCE, REMOTE_CODE = "SAM", "Florence-2", "Florence-2 in Microsoft's remote-code layout"
OFFICIAL_FILES = "sam_vit_h_4b8939.pth, sam_vit_l_0b3195.pth or sam_vit_b_01ec64.pth"
REMEDIES: Mapping[str, str] = {
    "sam": f"give segment-anything's own {OFFICIAL_FILES}",
    "florence": "give hub:florence-community/Florence-2-{size}@COMMIT (40 digits), or a folder with its files",
}
"""Role -> what to give instead. {size} stands for the size and variant."""
ANY_SIZE = "base (or -base-ft, -large, -large-ft)"
SIZES = {768: "base (or -base-ft)", 1024: "large (or -large-ft)"}
"""Width of a Florence-2 -> its published names."""


@dataclass(frozen=True)
class Layout:
    """A kind of checkpoint."""

    name: str
    marks: tuple[str, ...]
    """Patterns. Each must match the beginning of a tensor's name, or of a part of it after a dot."""
    role: str | None = None
    """The role whose teacher it is."""


LAYOUTS = (  # the first that matches counts
    Layout("HQ-SAM", (r"mask_decoder\.(hf_token|hf_mlp|compress_vit_feat|embedding_maskfeature)\b",)),
    Layout("SAM 2 or SAM 2.1", (r"(image_encoder\.trunk|memory_attention|memory_encoder|sam_mask_decoder)\.",)),
    Layout("MobileSAM (a TinyViT)", (r"image_encoder\.(layers\.\d|patch_embed\.seq)",)),
    Layout("EfficientSAM", (r"prompt_encoder\.(bbox_top_left_embeddings|invalid_points)\.",)),
    Layout("EfficientViT-SAM", (r"image_encoder\.backbone\.",)),
    Layout(SAM, (r"image_encoder\.blocks\.\d", r"mask_decoder\.transformer\."), "sam"),
    Layout("the image encoder of SAM alone", (r"image_encoder\.blocks\.\d",)),
    Layout("SAM in the layout of Hugging Face", (r"vision_encoder\.(layers|backbone)\.", r"mask_decoder\.")),
    Layout(
        "Grounding DINO", (r"(bert|text_backbone|text_encoder)\.(encoder|embeddings)\.", r"transformer\.|model\.enc")
    ),
    Layout(REMOTE_CODE, (r"(?<!model\.)vision_tower\.(convs\.\d\.proj|blocks\.\d+\.\d+\.\w+\.\w+\.fn)\.",)),
    Layout(REMOTE_CODE, (r"(?<!model\.)vision_tower\.", r"(?<![\w.])image_projection\b")),
    Layout(FLORENCE, (r"model\.vision_tower\.", r"model\.language_model\.encoder\.layers\."), "florence"),
    Layout("FastSAM or another YOLO", (r"model\.0\.conv\.weight", r"model\.\d+\.(cv2|cv3|m)\.")),
    Layout("a language model such as Llama", (r"layers\.0\.self_attn\.q_proj\.", r"embed_tokens\.")),
    Layout("a ConvNeXt", (r"stages\.0\.(blocks|layers)\.0\.|downsample_layers\.0\.",)),
    Layout("CLIP", (r"text_model\.|token_embedding\.|visual\.", r"vision_model\.|visual\.")),
    Layout("a vision transformer alone", (r"blocks\.0\.attn\.qkv\.", r"cls_token")),
)
CLASSES: Mapping[str, str] = {
    "ultralytics.": "FastSAM or another YOLO",
    "models.yolo": "a YOLO",
    "mobile_sam.": "MobileSAM (a TinyViT)",
    "segment_anything_hq.": "HQ-SAM",
    "segment_anything.": "a pickled object of SAM",
    "sam2.": "SAM 2 or SAM 2.1",
    "argparse.": "a training checkpoint with more than tensors",
    "numpy.": "a checkpoint with more than tensors",
}
"""Beginning of a pickled class's name -> the kind of file."""


def layout_of(names: Iterable[str]) -> Layout | None:
    """The layout of a file with tensors of these names; None if it is not in the table."""
    known = list(names)
    for layout in LAYOUTS:
        if all(_matches(mark, known) for mark in layout.marks):
            return layout
    return None


def _matches(mark: str, names: list[str]) -> bool:
    pattern = re.compile(rf"(?:^|(?<=\.)){mark}")
    return any(pattern.search(name) for name in names)


def remedy(role: str, width: object = None) -> str:
    """The advice what to give for a role instead; for Florence-2 of that width if it is known."""
    size = SIZES.get(width, ANY_SIZE) if isinstance(width, int) else ANY_SIZE
    return REMEDIES[role].replace("{size}", size)


def differences(found: Mapping[str, Tensor], expected: Shapes) -> list[str]:
    """The ways in which a file's tensors differ from the expected ones, each with a count and the first name."""
    both = [name for name in expected if name in found]
    kinds = {
        "missing": [name for name in expected if name not in found],
        "surplus": [name for name in found if name not in expected],
        "of another shape": [name for name in both if found[name].shape != expected[name]],
        "of a type that is no weights'": [name for name in both if found[name].dtype not in FLOATS],
    }
    more = {
        "of another shape": lambda name: f" {list(found[name].shape)} instead of {list(expected[name])}",
        "of a type that is no weights'": lambda name: f" {found[name].dtype}",
    }
    return [
        f"{len(names):,} {'tensor is' if len(names) == 1 else 'tensors are'} {kind}, first {names[0][:80]}"
        + (more[kind](names[0])[:60] if kind in more else "")
        for kind, names in kinds.items()
        if names
    ]
