"""What a model made of one question: the answer, and where it looked."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.evaluation.questions import Question


@dataclass(frozen=True)
class Attention:
    """Where each cross-attention layer looked while it read the question.

    maps: (L, S), mean over heads and the question's tokens; each row sums to 1.
    valid: (S,) bool, cells with at least one image pixel.
    truth: (S,) bool, cells that the asked object touches; None where the truth is unknown or the object absent.
    """

    maps: npt.NDArray[np.float32]
    valid: npt.NDArray[np.bool_]
    truth: npt.NDArray[np.bool_] | None


@dataclass(frozen=True)
class Prediction:
    """One answered question."""

    question: Question
    answer: str
    attention: Attention
