from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from vanilla_transformer.training.class_names import ClassNames
from vanilla_transformer.training.sequence_classification import SequenceClassification, windows


@pytest.fixture(scope="module")
def tokenizer(toy):
    return AutoTokenizer.from_pretrained(toy / "tokenizer")


@pytest.fixture
def labelling(tokenizer) -> SequenceClassification:
    return SequenceClassification(tokenizer, 0, ClassNames(("bad", "good")))


def test_a_text_and_a_pair(labelling, tokenizer):
    (one,), (other,) = labelling.encode([{"text": "the cat", "label": 1}, {"text": "", "label": 0}], None)
    assert one == {"input_ids": tokenizer("the cat")["input_ids"], "labels": 1} and other["input_ids"] == [2]
    ((pair,),) = labelling.encode([{"text": "the cat", "text_pair": "a dog"}], None)
    assert pair == {"input_ids": tokenizer("the cat")["input_ids"] + tokenizer("a dog")["input_ids"]}
    assert labelling.is_empty({"text": " "}) and labelling.is_empty({"text": "a", "text_pair": ""})
    assert not labelling.is_empty({"text": "a"})


def test_windows_hold_everything_once_and_the_whole_of_the_shorter_text():
    text, pair = [*range(10, 40), 2], [5, 6, 2]
    for limit in (8, 12, 33, 34):
        found = windows(text, pair, limit)
        assert all(len(row) <= limit and row[-3:] == pair and row[-4] == 2 for row in found)
        assert [token for row in found for token in row[:-4]] == text[:-1]
        assert windows(pair, text, limit) == [pair + row[:-3] for row in found]
    assert windows(text, pair, 34) == windows(text, pair, None) == [text + pair]
    assert [len(row) for row in windows(text, [], 12)] == [11, 11, 11], "equal runs"
    with pytest.raises(
        ValueError, match="^row 7: a pair of texts of 31 and 31 tokens: neither leaves room for the other in 32"
    ):
        windows(text, text, 32, row=7)


def test_answers_are_probabilities_and_those_of_windows_are_averaged(labelling):
    output = SimpleNamespace(logits=torch.tensor([[0.0, 0.0], [0.0, 1000.0]]))
    answers = labelling.answers(output, [{}, {}])
    assert [row.tolist() for row in answers] == [[0.5, 0.5], [0.0, 1.0]]
    assert labelling.merged(answers).tolist() == [0.25, 0.75]
    row = labelling.written(labelling.merged(answers), {"text": "x", "label": "bad"})
    assert row == {"text": "x", "label": "good", "scores": {"bad": 0.25, "good": 0.75}}


def test_scores_of_classes(labelling):
    answers = [np.array(row) for row in ([0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.6, 0.4])]
    rows = [{"label": 0}, {"label": 1}, {"label": 0}, {"label": 0}]
    assert labelling.measure(answers, rows) == {"accuracy": 75.0, "macro_f1": round(100 * (0.8 + 2 / 3) / 2, 2)}
    rows[0]["label"] = -100  # a class that the model has not
    assert labelling.measure(answers, rows)["accuracy"] == 50.0


def test_regression(tokenizer):
    labelling = SequenceClassification(tokenizer, 0, None)
    assert labelling.best_metric == "pearson" and labelling.head()["problem_type"] == "regression"
    answers = labelling.answers(SimpleNamespace(logits=torch.tensor([[1.0], [2.0], [9.0]])), [{}] * 3)
    scores = labelling.measure(answers, [{"label": value} for value in (0.1, 0.2, 0.3)])
    assert scores == {"pearson": 91.77, "spearman": 100.0}
    assert labelling.written(answers[1], {"text": "x"}) == {"text": "x", "label": 2.0}
    batch = labelling.collate([{"input_ids": [2], "labels": 0.5}, {"input_ids": [5, 2], "labels": 1.0}])
    assert batch["labels"].tolist() == [0.5, 1.0] and batch["attention_mask"].tolist() == [[1, 0], [1, 1]]


def test_a_tiny_model_learns_numbers(finetuning, labelled_toy):
    data = [str(labelled_toy / "regression.jsonl")]
    run = finetuning("sequence-classification", train_file=data, validation_file=data, max_steps=90)
    run.run()
    (row,) = run.folder.metrics()
    assert row["pearson"] > 98 and row["spearman"] > 98 and row["loss"] < 0.2
    saved = AutoModelForSequenceClassification.from_pretrained(run.folder.path)
    assert saved.config.problem_type == "regression" and saved.config.id2label == {0: "score"}


@pytest.mark.parametrize(
    "labels, names",
    [(("no", "yes"), ["no", "yes"]), ((3, -1), ["-1", "3"]), ((False, True), ["false", "true"])],
)  # fmt: skip
def test_labels_of_any_kind_are_names_in_the_saved_model_and_in_the_pipeline(finetuning, write_rows, labels, names):
    rows = [{"text": text, "label": label} for text, label in zip(("the red cat", "a house"), labels, strict=True)]
    file = [write_rows(*rows * 3)]
    run = finetuning("sequence-classification", train_file=file, validation_file=file)
    run.run()
    model: Any = AutoModelForSequenceClassification.from_pretrained(run.folder.path)
    assert list(model.config.id2label.values()) == names
    classify = pipeline("text-classification", model=model, tokenizer=run.tokenizer, device="cpu")
    said = [one["label"] for one in classify([row["text"] for row in rows])]
    assert said == [str(label).lower() for label in labels]


def test_pairs_are_learned(finetuning, labelled_toy):
    data = [str(labelled_toy / "pairs.jsonl")]
    run = finetuning("sequence-classification", train_file=data, validation_file=data)
    run.run()
    assert run.folder.metrics()[0]["accuracy"] == 100.0
