"""Scores worked out by hand, and what conlleval says of tags that break the scheme."""

from __future__ import annotations

import evaluate
import numpy as np
import pytest

from vanilla_transformer.training.task_metrics import (
    Accuracy,
    AttachmentScores,
    EntityF1,
    MacroF1,
    Pearson,
    Spearman,
    TagAccuracy,
)


def test_accuracy_of_names_and_of_numbers():
    assert isinstance(Accuracy(), evaluate.Metric)
    assert Accuracy().compute(predictions=["a", "b", "b", "a"], references=["a", "b", "a", "a"]) == {"accuracy": 0.75}
    assert Accuracy().compute(predictions=np.array([1, 0]), references=[1, 1]) == {"accuracy": 0.5}


def test_macro_f1_is_the_mean_over_the_classes_of_both_sides():
    # a: P 1/2, R 1 -> 2/3; b: P 1, R 1/2 -> 2/3; c is predicted only, d is a reference only: 0.
    scores = MacroF1().compute(predictions=["a", "a", "b", "c"], references=["a", "b", "b", "d"])
    assert scores == {"macro_f1": pytest.approx((2 / 3 + 2 / 3) / 4)}


def test_correlations():
    # By hand: x - mean = -1.5 -0.5 0.5 1.5, y - mean = -2.5 -1.5 -0.5 4.5; sum xy 11, xx 5, yy 29.
    one, other = [1.0, 2.0, 3.0, 4.0], [1, 2, 3, 8]
    assert Pearson().compute(predictions=one, references=other)["pearson"] == pytest.approx(11 / np.sqrt(5 * 29))
    assert Spearman().compute(predictions=one, references=other)["spearman"] == pytest.approx(1)
    assert Pearson().compute(predictions=one, references=[-2, -4, -6, -8])["pearson"] == pytest.approx(-1)
    # Ranks 1 2.5 2.5 4 against 1 2 3 4: sum xy 4.5, xx 4.5, yy 5.
    assert Spearman().compute(predictions=[1, 2, 2, 9], references=one)["spearman"] == pytest.approx(
        4.5 / np.sqrt(22.5)
    )


@pytest.mark.parametrize("metric, name", [(Pearson, "pearson"), (Spearman, "spearman")])
def test_nothing_correlates_with_what_never_changes(metric, name):
    assert metric().compute(predictions=[2.0, 2.0], references=[1.0, 5.0]) == {name: 0.0}
    assert metric().compute(predictions=[1.0, 5.0], references=[2.0, 2.0]) == {name: 0.0}
    assert metric().compute(predictions=[1.0], references=[2.0]) == {name: 0.0}
    with pytest.raises(ValueError, match="predictions: row 2 is NaN or infinite"):
        metric().compute(predictions=[1.0, float("nan")], references=[1.0, 2.0])


def test_tags():
    predictions, references = [["A", "B"], ["A"], ["B", "B", "B"]], [["A", "B"], ["B"], ["B", "B", "A"]]
    assert TagAccuracy().compute(predictions=predictions, references=references) == {
        "accuracy": pytest.approx(4 / 6),
        "exact_match": pytest.approx(1 / 3),
    }
    assert TagAccuracy().compute(predictions=[[1], [2, 3]], references=[[1], [2, 4]])["accuracy"] == pytest.approx(
        2 / 3
    )


def test_entities():
    references = [["B-PER", "I-PER", "O", "B-LOC"], ["B-ORG", "B-ORG", "O"]]
    predictions = [["B-PER", "I-PER", "O", "B-ORG"], ["B-ORG", "I-ORG", "O"]]  # one right; a type, a border wrong
    for strict in (False, True):
        scores = EntityF1(strict=strict).compute(predictions=predictions, references=references)
        assert scores == {
            "precision": pytest.approx(1 / 3),
            "recall": pytest.approx(1 / 4),
            "f1": pytest.approx(2 / 7),
            "per_type": {
                "LOC": {"precision": 0, "recall": 0, "f1": 0, "support": 1},
                "ORG": {"precision": 0, "recall": 0, "f1": 0, "support": 2},
                "PER": {"precision": 1, "recall": 1, "f1": 1, "support": 1},
            },
        }


@pytest.mark.parametrize(
    "predicted, found, well_formed",
    [
        (["O", "I-PER", "I-PER", "O"], 1, 0),  # I behind O begins an entity
        (["B-LOC", "I-PER", "I-PER", "O"], 1, 0),  # so does I behind another type
        (["O", "B-PER", "I-PER", "O"], 1, 1),
        (["O", "B-PER", "B-PER", "O"], 0, 0),  # B always begins another one
        (["O", "B-PER", "I-PER", "I-PER"], 0, 0),
    ],
)
def test_tags_that_break_the_scheme(predicted, found, well_formed):
    references = [["O", "B-PER", "I-PER", "O"]]
    assert EntityF1().compute(predictions=[predicted], references=references)["recall"] == found
    assert EntityF1(strict=True).compute(predictions=[predicted], references=references)["recall"] == well_formed


def test_entities_end_with_their_sentence_and_types_may_hold_hyphens():
    references = [["O", "B-creative-work"], ["I-creative-work", "O"]]
    scores = EntityF1().compute(predictions=references, references=references)
    assert scores["per_type"] == {"creative-work": {"precision": 1, "recall": 1, "f1": 1, "support": 2}}


def test_no_entities_at_all():
    nothing = {"precision": 0, "recall": 0, "f1": 0}
    for strict in (False, True):
        assert EntityF1(strict=strict).compute(predictions=[["O"]], references=[["O"]]) == nothing | {"per_type": {}}
        scores = EntityF1(strict=strict).compute(predictions=[["I-X", "B-X"]], references=[["O", "O"]])
        assert {name: scores[name] for name in nothing} == nothing


def test_trees():
    references = [
        {"head": [2, 0, 2, 3], "deprel": ["nsubj:pass", "root", "obj", "punct"]},
        {"head": [0], "deprel": ["root"]},
    ]
    predictions = [
        {"head": [2, 0, 1, 2], "deprel": ["nsubj", "root", "obj", "x"]},
        {"head": [0], "deprel": ["root"]},
    ]
    scores = AttachmentScores().compute(predictions=predictions, references=references)
    assert scores == pytest.approx(
        {"uas": 3 / 5, "las": 2 / 5, "label_accuracy": 3 / 5, "exact_match": 1 / 2, "words": 5}
    )
    scores = AttachmentScores(universal=True).compute(predictions=predictions, references=references)
    assert scores == pytest.approx(
        {"uas": 3 / 5, "las": 3 / 5, "label_accuracy": 4 / 5, "exact_match": 1 / 2, "words": 5}
    )


def test_in_batches():
    metric = AttachmentScores()
    for head in (0, 1):
        metric.add_batch(
            predictions=[{"head": np.array([head]), "deprel": ["a"]}], references=[{"head": [0], "deprel": ["a"]}]
        )
    assert metric.compute()["uas"] == 0.5


@pytest.mark.parametrize(
    "metric, predictions, references, message",
    [
        (Accuracy(), [], [], "no predictions to score"),
        (Accuracy(), ["a"], ["a", "b"], r"predictions \(1\) and references \(2\)|mismatch|number"),
        (TagAccuracy(), [["A"], ["A"]], [["A"], ["A", "B"]], "row 2: 1 predicted tags for 2 tokens"),
        (TagAccuracy(), [[]], [[]], "no tokens to score"),
        (EntityF1(), [["NOUN"]], [["B-X"]], "tag 'NOUN' begins or continues no entity .* TagAccuracy"),
        (
            AttachmentScores(),
            [{"head": [0], "deprel": ["a"]}],
            [{"head": [0, 1], "deprel": ["a", "b"]}],
            "row 1: 1 predicted heads and 1 labels for 2 heads and 2 labels",
        ),
        (AttachmentScores(), [{"head": [], "deprel": []}], [{"head": [], "deprel": []}], "no words to score"),
    ],
)
def test_what_cannot_be_scored(metric, predictions, references, message):
    with pytest.raises(ValueError, match=message):
        metric.compute(predictions=predictions, references=references)
