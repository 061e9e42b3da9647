"""Scores of classifiers, taggers and parsers, 0 to 1, as `evaluate` metrics that need no network (see `metrics.py`).

    Accuracy().compute(predictions=["pos", "neg"], references=["pos", "pos"])        {'accuracy': 0.5}
    EntityF1().compute(predictions=[["B-PER", "O"]], references=[["B-PER", "O"]])    {'precision': 1.0, ...}

Predictions and references are labels by name or by number, or lists of them (one for each token), never padded: a label of
an ignored position must not reach a metric.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from datasets import Features, Value
from datasets import Sequence as ListOf
from evaluate import Metric
from scipy.stats import pearsonr, spearmanr
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import IOB2, Entities
from sklearn.metrics import f1_score

from vanilla_transformer.training.metrics import OfflineMetric

_LABEL = Value("string")  # numbers are compared by their digits
_TAG = re.compile(r"O|[BIES](-.+)?", re.DOTALL)


class _TaskMetric(OfflineMetric):
    value: ClassVar[Any] = _LABEL
    """one prediction, or one reference"""

    def rows(self) -> Features:
        return Features({"predictions": self.value, "references": self.value})

    def add_batch(self, *, predictions=None, references=None, **kwargs) -> None:
        """Collect lists, for `compute`."""
        given = (_plain(values, self.value) for values in (predictions, references))
        Metric.add_batch(self, predictions=next(given), references=next(given), **kwargs)


def _plain(values: Any, feature: Any) -> list[Any]:
    """Rows in the plain types of a feature: labels as texts, arrays and tensors as lists."""
    rows = values.tolist() if hasattr(values, "tolist") else values
    if isinstance(feature, dict):
        return [{name: _plain(row[name], part.feature) for name, part in feature.items()} for row in rows]
    if hasattr(feature, "feature"):
        return [_plain(row, feature.feature) for row in rows]
    return [str(row) for row in rows] if feature == _LABEL else list(rows)


class Accuracy(_TaskMetric):
    """`accuracy`: the share of rows whose label is right."""

    description = "Accuracy"

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict:
        return {"accuracy": float(np.mean([a == b for a, b in zip(predictions, references, strict=True)]))}


class MacroF1(_TaskMetric):
    """`macro_f1`: the mean of the classes' F1, over the classes that references or predictions have; a class that is only
    in one of them has F1 0 (as scikit-learn).
    """

    description = "Macro-averaged F1, computed by scikit-learn"

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict:
        zero: Any = 0  # annotated as a text
        return {"macro_f1": float(f1_score(references, predictions, average="macro", zero_division=zero))}


class _Correlation(_TaskMetric):
    """Of numbers that are all the same (or a single row) nothing can be said: 0, not NaN, since a model that answers the same
    to everything has learned nothing, and the best model of a run is chosen by comparing scores.
    """

    value = Value("float64")
    correlation: ClassVar[Any]
    name: ClassVar[str]

    def _compute(self, predictions: Sequence[float], references: Sequence[float]) -> dict:
        for what, values in (("predictions", predictions), ("references", references)):
            if not np.isfinite(values).all():
                raise ValueError(f"{what}: row {int(np.argmin(np.isfinite(values))) + 1} is NaN or infinite")
        constant = np.ptp(predictions) == 0 or np.ptp(references) == 0
        return {self.name: 0.0 if constant else float(type(self).correlation(predictions, references)[0])}


class Pearson(_Correlation):
    """`pearson`, -1 to 1: how well a straight line relates predictions and references; 0 if either is constant."""

    description, name, correlation = "Pearson's correlation, computed by SciPy", "pearson", staticmethod(pearsonr)


class Spearman(_Correlation):
    """`spearman`, -1 to 1: Pearson's correlation of the ranks (ties share the mean rank); 0 if either is constant."""

    description, name, correlation = (
        "Spearman's rank correlation, computed by SciPy",
        "spearman",
        staticmethod(spearmanr),
    )


class _TagMetric(_TaskMetric):
    """Of lists of tags. ValueError, with row and both lengths, for rows with another number of tags."""

    value = ListOf(_LABEL)

    def _compute(self, predictions: Sequence[list[str]], references: Sequence[list[str]]) -> dict:
        for row, (made, given) in enumerate(zip(predictions, references, strict=True), start=1):
            if len(made) != len(given):
                raise ValueError(
                    f"row {row}: {len(made)} predicted tags for {len(given)} tokens; every token has one tag"
                )
        if not any(references):
            raise ValueError("no tokens to score")
        return self._score([list(row) for row in predictions], [list(row) for row in references])

    def _score(self, predictions: list[list[str]], references: list[list[str]]) -> dict:
        raise NotImplementedError


class TagAccuracy(_TagMetric):
    """`accuracy`: the share of tokens whose tag is right; `exact_match`: of sentences with no wrong tag."""

    description = "Accuracy of tags"

    def _score(self, predictions: list[list[str]], references: list[list[str]]) -> dict:
        right = [[a == b for a, b in zip(*rows, strict=True)] for rows in zip(predictions, references, strict=True)]
        return {
            "accuracy": sum(map(sum, right)) / sum(map(len, right)),
            "exact_match": sum(map(all, right)) / len(right),
        }


class EntityF1(_TagMetric):
    """Entities (chunks, slots) found: right only with the type, the first and the last token of the reference.

    `precision`, `recall` and `f1` over all entities (micro-averaged); `per_type`: {type: {"precision", "recall", "f1",
    "support"}}. What would be 0 / 0 is 0.

    Args:
        strict: False, as the program conlleval (Tjong Kim Sang and Buchholz, 2000): an entity also begins where I-X stands
            behind O, or behind another type; so tags that break the scheme still make entities. True: only what is well
            formed in IOB2 is an entity, which begins with B- and goes on with I- of the same type.
    """

    description = "F1 of entities, computed by seqeval"
    citation = "Nakayama (2018). seqeval: A Python framework for sequence labeling evaluation."

    def __init__(self, strict: bool = False, **kwargs):
        self.strict = strict
        super().__init__(**kwargs)

    def _score(self, predictions: list[list[str]], references: list[list[str]]) -> dict:
        tags = {tag for rows in (predictions, references) for row in rows for tag in row}
        wrong = sorted(tag for tag in tags if not _TAG.fullmatch(tag))
        if wrong:
            raise ValueError(
                f"tag {wrong[0]!r} begins or continues no entity (O, B-TYPE, I-TYPE); score such tags by TagAccuracy"
            )
        made, given = self._entities(predictions), self._entities(references)
        types = sorted({kind for kind, *_ in made | given})
        per_type = {
            kind: _precision_recall_f1({e for e in made if e[0] == kind}, {e for e in given if e[0] == kind})
            | {"support": sum(e[0] == kind for e in given)}
            for kind in types
        }
        return _precision_recall_f1(made, given) | {"per_type": per_type}

    def _entities(self, rows: list[list[str]]) -> set[tuple[str, int, int, int]]:
        """(type, row, first token, last token) of each. Only seqeval's finding of entities is used: its reports warn, or
        fail, where a text or a model knows no entity.
        """
        if self.strict:
            found = Entities(rows, IOB2).entities
            return {(one.tag, row, one.start, one.end - 1) for row, entities in enumerate(found) for one in entities}
        return {(kind, row, start, end) for row, tags in enumerate(rows) for kind, start, end in get_entities(tags)}


def _precision_recall_f1(made: set[Any], given: set[Any]) -> dict[str, float]:
    right = len(made & given)
    scores = {"precision": (right, len(made)), "recall": (right, len(given)), "f1": (2 * right, len(made) + len(given))}
    return {name: part / whole if whole else 0.0 for name, (part, whole) in scores.items()}


class AttachmentScores(_TaskMetric):
    """Trees: `uas`, `las`, `label_accuracy`: the share of words with the right head; with the right head and label; with the
    right label. `exact_match`: of sentences whose trees are right, labels too. `words`: how many were scored, which is all:
    punctuation counts, as in the CoNLL shared tasks of 2017 and 2018.

    Predictions and references are {"head": [...], "deprel": [...]}.

    Args:
        universal: compare labels up to their first ":" only ("nsubj:pass" as "nsubj"). So does the script of CoNLL 2018,
            conll18_ud_eval.py; its LAS, on the given words, is the one of universal=True.
    """

    description = "Unlabelled and labelled attachment score"
    citation = (
        "Zeman et al. (2018). CoNLL 2018 Shared Task: Multilingual Parsing from Raw Text to Universal Dependencies."
    )
    value: ClassVar[Any] = {"head": ListOf(Value("int64")), "deprel": ListOf(_LABEL)}

    def __init__(self, universal: bool = False, **kwargs):
        self.universal = universal
        super().__init__(**kwargs)

    def _compute(self, predictions: Sequence[dict[str, Any]], references: Sequence[dict[str, Any]]) -> dict:
        heads: list[bool] = []
        labels: list[bool] = []
        exact = 0
        for row, (made, given) in enumerate(zip(predictions, references, strict=True), start=1):
            lengths = [len(part[name]) for part in (made, given) for name in ("head", "deprel")]
            if len(set(lengths)) > 1:
                raise ValueError(
                    f"row {row}: {lengths[0]} predicted heads and {lengths[1]} labels for {lengths[2]} heads and {lengths[3]} "
                    f"labels; every word has one of each"
                )
            right_heads = [a == b for a, b in zip(made["head"], given["head"], strict=True)]
            right_labels = [
                self._label(a) == self._label(b) for a, b in zip(made["deprel"], given["deprel"], strict=True)
            ]
            exact += all(right_heads) and all(right_labels)
            heads += right_heads
            labels += right_labels
        if not heads:
            raise ValueError("no words to score")
        return {
            "uas": float(np.mean(heads)),
            "las": float(np.mean(np.logical_and(heads, labels))),
            "label_accuracy": float(np.mean(labels)),
            "exact_match": exact / len(references),
            "words": len(heads),
        }

    def _label(self, label: str) -> str:
        return label.split(":")[0] if self.universal else label
