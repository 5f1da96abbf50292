"""The benchmark `existence`: yes/no questions scored as in POPE (Li et al. 2023), open questions by exact match.

A question is a yes/no question if its reference answer is 'yes' or 'no', or begins with one of them and a punctuation
mark (`Yes.`, `No, there is none.`). 'No smoking', 'No. 5' and 'Yes Bank' are answers to open questions.

An answer to a yes/no question is parsed by the first rule that applies:
1. its first word is yes or no: that word;
2. its first sentence says that the model does not know (a negation and then know, sure, certain, clear, tell, say,
   determine, decide, possible or able, with at most adverbs and 'be' in between): unparsed;
3. its first sentence has a yes and no negation: yes; a negation (no, not, cannot or a word in n't) and no yes: no;
4. else (both or neither): unparsed.
POPE itself counts every answer without no or not as a yes, which favours a model that rambles. Here unparsed answers
count as wrong, and neither as a yes nor as a no.
"""

import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from pipeline.evaluation.intervals import Clusters, Estimate, Sums, ratio
from pipeline.evaluation.questions import Prediction
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
APOSTROPHE = "\N{RIGHT SINGLE QUOTATION MARK}"
KNOWING = re.compile(r"known?|sure|certain|clear|tell|say|determined?|decide|possible|able")
BETWEEN = re.compile(r".*ly|quite|so|very|too|even|be")
# Columns of the sums per question.
TP, FP, TN, FN, LOST_YES, LOST_NO = range(6)


def yes_or_no(answer: str) -> str:
    """Parse an answer: 'yes', 'no' or 'unparsed'."""
    sentence = re.split(r"[.!?\n]", answer.strip().lower().replace(APOSTROPHE, "'"), maxsplit=1)[0]
    words: list[str] = re.findall(r"[a-z']+", sentence)
    if words and words[0] in ("yes", "no"):
        return words[0]
    negations = [n for n, word in enumerate(words) if word in ("no", "not", "cannot") or word.endswith("n't")]
    yes, no = "yes" in words, bool(negations)
    if yes == no or any(_in_doubt(words[n + 1 :]) for n in negations):
        return UNPARSED
    return "yes" if yes else "no"


def _in_doubt(words: Sequence[str]) -> bool:
    """True if the first word after a negation, apart from adverbs, is one of KNOWING."""
    first = next((word for word in words if not BETWEEN.fullmatch(word)), "")
    return KNOWING.fullmatch(first) is not None


def expected_answer(reference: str) -> str | None:
    """'yes' or 'no' if the reference answer is that, or begins with it and punctuation; None for an open question."""
    first = re.match(r"\s*(yes|no)\s*(?:$|[,;:!(\u2013\u2014]|-\s|\.(?!\s*\d))", reference.lower())
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
        # Chance: a model that does not look at the image does best by always giving the more frequent answer.
        asked, said = (sum(row[name] == "yes" for row in rows) for name in ("expected", "said"))
        yes, every = asked / len(rows), len(rows)
        parts = (
            ("accuracy", "yes/no accuracy", _accuracy, every, max(yes, 1 - yes), "always the same answer"),
            ("f1", "yes/no F1 (yes is positive)", _f1, every, ratio_f1(yes), "always yes"),
            ("precision", "yes/no precision", _precision, said, yes, "always yes"),
            ("recall", "yes/no recall", _recall, asked, None, ""),
            ("yes_ratio", "share of answers that say yes", _yes_ratio, every, None, ""),
        )
        return present(
            [
                self._made(metric, title, clusters.estimate(function, n), chance, chance_name)
                for metric, title, function, n, chance, chance_name in parts
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
    """F1 of always saying yes, if yes is right for a share `yes` of the questions."""
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
