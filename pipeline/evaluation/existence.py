"""Is it there? Yes/no questions scored as POPE does (Li et al. 2023), and open questions by exact match.

A question belongs to the yes/no part if its reference answer begins with yes or no. An answer says what its first word
says; if that is neither, what the yes, no or not in its first sentence says; if there is none of them, or both, it is
unparsed. (POPE itself counts every answer without no or not as a yes; a model that rambles would gain by it.) Unparsed
answers count as wrong, and as neither a yes nor a no.
"""

import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from pipeline.evaluation.intervals import Clusters, Estimate, Sums, ratio
from pipeline.evaluation.prediction import Prediction
from pipeline.evaluation.scores import Result, Score, present

PREDICTIONS = pa.schema(
    [
        ("id", pa.string()),
        ("sample_id", pa.string()),
        ("turn", pa.int32()),
        ("image", pa.string()),
        ("question", pa.string()),
        ("reference", pa.string()),
        ("answer", pa.string()),
        ("kind", pa.string()),  # 'yes_no' | 'open'
        ("expected", pa.string()),  # of a yes/no question: 'yes' | 'no', else null
        ("said", pa.string()),  # of a yes/no question: 'yes' | 'no' | 'unparsed', else null
        ("correct", pa.bool_()),
    ]
)
UNPARSED = "unparsed"
# Columns of the sums per question.
TP, FP, TN, FN, LOST_YES, LOST_NO = range(6)


def yes_or_no(answer: str) -> str:
    """What an answer says: 'yes', 'no' or 'unparsed'."""
    words: list[str] = re.findall(r"[a-z']+", re.split(r"[.!?\n]", answer.strip().lower(), maxsplit=1)[0])
    if words and words[0] in ("yes", "no"):
        return words[0]
    yes, no = "yes" in words, bool({"no", "not"} & set(words)) or any(w.endswith("n't") for w in words)
    if yes == no:
        return UNPARSED
    return "yes" if yes else "no"


def expected_answer(reference: str) -> str | None:
    """'yes' or 'no' if the reference begins with it, else None: then the question is an open one."""
    first = re.match(r"\s*(yes|no)\b", reference.lower())
    return str(first.group(1)) if first else None


def normalised(text: str) -> str:
    """Text for exact match: lower case, single spaces, no punctuation at the ends of words."""
    return " ".join(word.strip(".,;:!?\"'()") for word in text.lower().split())


class Existence:
    """Accuracy, precision, recall, F1 and share of yes on yes/no questions; exact match on the open ones."""

    name = "existence"
    table_file = "predictions.parquet"

    def score(self, predictions: Sequence[Prediction]) -> Result:
        """Every prediction is scored: as a yes/no question or as an open one."""
        rows = [_row(p) for p in predictions]
        closed = [row for row in rows if row["kind"] == "yes_no"]
        opened = [row for row in rows if row["kind"] == "open"]
        scores = [*self._closed(closed), *self._opened(opened)]
        return Result(
            scores=scores,
            scored=frozenset(p.question.id for p in predictions),
            table=pa.Table.from_pylist(rows, schema=PREDICTIONS),
            details={
                "yes_no_questions": len(closed),
                "open_questions": len(opened),
                "unparsed": sum(row["said"] == UNPARSED for row in closed),
            },
        )

    def _closed(self, rows: list[dict[str, object]]) -> list[Score]:
        if not rows:
            return []
        counts = np.zeros((len(rows), 6))
        place = {
            ("yes", "yes"): TP,
            ("no", "yes"): FP,
            ("no", "no"): TN,
            ("yes", "no"): FN,
            ("yes", UNPARSED): LOST_YES,
            ("no", UNPARSED): LOST_NO,
        }
        for i, row in enumerate(rows):
            counts[i, place[str(row["expected"]), str(row["said"])]] = 1
        clusters = Clusters([str(row["image"]) for row in rows], counts)
        # Without looking, the best is to say the more frequent answer always.
        yes = sum(row["expected"] == "yes" for row in rows) / len(rows)
        parts = (
            ("accuracy", "yes/no accuracy", _accuracy, max(yes, 1 - yes), "always the same answer"),
            ("f1", "yes/no F1 (yes is positive)", _f1, ratio_f1(yes), "always yes"),
            ("precision", "yes/no precision", _precision, yes, "always yes"),
            ("recall", "yes/no recall", _recall, None, ""),
            ("yes_ratio", "share of answers that say yes", _yes_ratio, None, ""),
        )
        return present(
            [
                self._made(metric, title, clusters.estimate(function), chance, chance_name)
                for metric, title, function, chance, chance_name in parts
            ]
        )

    def _opened(self, rows: list[dict[str, object]]) -> list[Score]:
        if not rows:
            return []
        clusters = Clusters([str(row["image"]) for row in rows], [[float(bool(row["correct"])), 1.0] for row in rows])
        estimate = clusters.estimate(lambda s: ratio(s[..., 0], s[..., 1]))
        return present([self._made("open_exact_match", "open questions answered exactly", estimate, None, "")])

    def _made(
        self, metric: str, title: str, estimate: Estimate | None, chance: float | None, chance_name: str
    ) -> Score | None:
        return None if estimate is None else Score(self.name, metric, title, estimate, chance, chance_name)


def _row(prediction: Prediction) -> dict[str, object]:
    question = prediction.question
    expected = expected_answer(question.reference)
    said = None if expected is None else yes_or_no(prediction.answer)
    exact = normalised(prediction.answer) == normalised(question.reference)
    return {
        "id": question.id,
        "sample_id": question.sample_id,
        "turn": question.turn,
        "image": question.image_sha256,
        "question": question.text,
        "reference": question.reference,
        "answer": prediction.answer,
        "kind": "open" if expected is None else "yes_no",
        "expected": expected,
        "said": said,
        "correct": exact if expected is None else said == expected,
    }


def ratio_f1(yes: float) -> float | None:
    """F1 of always saying yes, where a share `yes` of the questions deserve it."""
    return 2 * yes / (1 + yes) if yes else None


def _accuracy(s: Sums) -> Sums:
    return ratio(s[..., TP] + s[..., TN], s.sum(-1))


def _precision(s: Sums) -> Sums:
    return ratio(s[..., TP], s[..., TP] + s[..., FP])


def _recall(s: Sums) -> Sums:
    return ratio(s[..., TP], s[..., TP] + s[..., FN] + s[..., LOST_YES])


def _f1(s: Sums) -> Sums:
    wrong = s[..., FP] + s[..., FN] + s[..., LOST_YES]
    return ratio(2 * s[..., TP], 2 * s[..., TP] + wrong)


def _yes_ratio(s: Sums) -> Sums:
    return ratio(s[..., TP] + s[..., FP], s.sum(-1))
