"""The proof of a stage: its own samples, collator and masks."""

from pathlib import Path
from typing import Any

from pipeline.artifacts.store import Artifact
from pipeline.training.alignment.choice import choose
from pipeline.training.alignment.evidence import truth_folder
from pipeline.training.alignment.proof import ROWS, prove, square_of
from pipeline.training.alignment.show import proof_text
from pipeline.training.alignment.words import Words
from pipeline.training.data.batches import Collator
from pipeline.training.data.samples import Samples


def prove_stage(
    stage: str, samples: Samples, collate: Collator, processor: Any, rule: str, masks: Artifact, cache: Path
) -> None:
    """Print the proof of alignment of a guided stage, before its first step.

    Args:
        stage: row of the stage table.
        processor: the student's processor.
        rule: `mask_cells` of the stage.
        masks: the artifact that the stage's table of cells was made from.
        cache: local folder for files that are downloaded from the store.

    Raises DataError if a row does not show what its mask and its image file say.
    """
    words, square = Words(processor.tokenizer.backend_tokenizer), square_of(processor.image_processor, rule)
    chosen = choose(samples, masks.local(cache, "part-"), truth_folder(masks, cache), square, ROWS)
    proof = prove(stage, chosen, collate, words, square)
    print(proof_text(proof, words), flush=True)
    proof.check()
