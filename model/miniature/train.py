"""Train the tiny models from scratch: `python -m model.miniature.train [all|florence|sam|llama|convnext]`.

The teachers are trained in two phases: on the data set's scenes, then on those together with scenes of up to four
objects, small ones among them. `--first-phase FOLDER` starts the second phase from the weights of a first one.

Every model is a pure function of the seed (and of the machine's arithmetic). Folders written under `--out`:
florence2, sam, llama, convnext, each as `model.miniature.weights` describes.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch
from transformers import AutoProcessor, Florence2ForConditionalGeneration, Florence2Processor

from model.errors import AgevlmError, ConfigError, DataError
from model.miniature.convnext import ConvNextSettings, save_convnext, train_convnext
from model.miniature.florence_curriculum import SECOND_PHASE as FLORENCE_SECOND_PHASE
from model.miniature.florence_curriculum import FlorenceSettings
from model.miniature.florence_training import train_florence
from model.miniature.florence_training import train_further as train_florence_further
from model.miniature.llama import LlamaSettings, train_llama
from model.miniature.sam import SamSizes, load_sam, save_sam
from model.miniature.sam_training import SECOND_PHASE as SAM_SECOND_PHASE
from model.miniature.sam_training import SamSettings, train_sam
from model.miniature.sam_training import train_further as train_sam_further
from model.miniature.weights import weights_dir


def make_florence(out: Path, seed: int, first: Path | None) -> None:
    """Train the tiny Florence-2 into `out`/florence2 (model and processor); it is saved on the way too."""
    model, processor = train_florence(FlorenceSettings(seed=seed)) if first is None else open_florence(first)

    def keep() -> None:
        model.save_pretrained(out / "florence2")
        processor.save_pretrained(out / "florence2")

    train_florence_further(model, processor, replace(FLORENCE_SECOND_PHASE, seed=seed), keep)
    keep()


def open_florence(folder: Path) -> tuple[Florence2ForConditionalGeneration, Florence2Processor]:
    """The tiny Florence-2 in `folder`/florence2. Raises DataError if there is none."""
    place = folder / "florence2"
    if not (place / "model.safetensors").is_file():
        raise DataError(f"{place} holds no model.safetensors; give the folder that was the first phase's --out")
    model = Florence2ForConditionalGeneration.from_pretrained(place, dtype=torch.float32, local_files_only=True)
    return model, AutoProcessor.from_pretrained(place, local_files_only=True)


def make_sam(out: Path, seed: int, first: Path | None) -> None:
    """Train the tiny SAM into `out`/sam."""
    sizes = SamSizes()
    sam = train_sam(SamSettings(seed=seed), sizes)[0] if first is None else load_sam(first / "sam")
    train_sam_further(sam, sizes, replace(SAM_SECOND_PHASE, seed=seed))
    save_sam(sam, sizes, out / "sam")


def make_llama(out: Path, seed: int, first: Path | None) -> None:
    """Train the tiny Llama into `out`/llama (model and tokenizer)."""
    model, tokenizer = train_llama(LlamaSettings(seed=seed))
    model.save_pretrained(out / "llama")
    tokenizer.save_pretrained(out / "llama")


def make_convnext(out: Path, seed: int, first: Path | None) -> None:
    """Train the tiny ConvNeXt into `out`/convnext."""
    save_convnext(train_convnext(ConvNextSettings(seed=seed)), out / "convnext")


MAKERS: Final[dict[str, Callable[[Path, int, Path | None], None]]] = {
    "convnext": make_convnext,
    "llama": make_llama,
    "sam": make_sam,
    "florence": make_florence,
}


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns the exit code: 0, or 2 after a message about wrong input."""
    parser = argparse.ArgumentParser(prog="python -m model.miniature.train", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("which", nargs="?", default="all", choices=["all", *MAKERS], help="which model (default: all)")
    parser.add_argument("--out", type=Path, default=weights_dir(), help="folder for the weights (default: the shipped)")
    parser.add_argument("--seed", type=int, default=0, help="seed of scenes, initial values and order (default: 0)")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="threads (default: 2 at most)")
    parser.add_argument(
        "--first-phase",
        type=Path,
        metavar="FOLDER",
        help="start sam or florence with these weights of a first phase",
    )
    given = parser.parse_args(arguments)
    try:
        if not 0 <= given.seed < 1000:
            raise ConfigError(f"--seed is {given.seed}; it must be from 0 to 999")
        if given.threads < 1:
            raise ConfigError(f"--threads is {given.threads}; it must be at least 1")
        torch.set_num_threads(given.threads)
        given.out.mkdir(parents=True, exist_ok=True)
        for name, make in MAKERS.items():
            if given.which in ("all", name):
                began, spent = time.monotonic(), time.process_time()
                make(given.out, given.seed, given.first_phase)
                wall, cpu = time.monotonic() - began, time.process_time() - spent
                print(f"{name}: done in {wall:.0f} s ({cpu:.0f} s of CPU), written to {given.out}", flush=True)
    except (AgevlmError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
