from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForTokenClassification, AutoTokenizer

from vanilla_transformer.training.class_names import ClassNames
from vanilla_transformer.training.token_classification import TokenClassification

TAGS = ClassNames(("B-X", "I-X", "O"))


@pytest.fixture(scope="module")
def tokenizer(toy):
    return AutoTokenizer.from_pretrained(toy / "tokenizer")


def test_a_word_of_several_pieces_has_its_label_on_the_first(tokenizer):
    labelling = TokenClassification(tokenizer, 0, TAGS, characters=False)
    row = {"tokens": ["the", "zebra", "cat"], "tags": [2, 0, 1]}
    ((example,),) = labelling.encode([row], None)
    pieces = tokenizer.convert_ids_to_tokens(example["input_ids"])
    assert len(pieces) > 5, "zebra is in no vocabulary"
    batch = labelling.collate([example, {"input_ids": [2], "word_positions": [], "labels": []}])
    labels = batch["labels"][0].tolist()
    assert [pieces[n] for n, label in enumerate(labels) if label != -100][::2] == ["Ġthe", "Ġcat"]
    assert [label for label in labels if label != -100] == [2, 0, 1] and labels[-1] == -100
    assert set(batch["labels"][1].tolist()) == {-100}


def test_characters_among_blanks_have_a_tag_each(tokenizer):
    labelling = TokenClassification(tokenizer, 0, TAGS, characters=True)
    row = {"tokens": list("a cat"), "tags": [0, 2, 0, 1, 1]}
    ((example,),) = labelling.encode([row], None)
    pieces = tokenizer.convert_ids_to_tokens([example["input_ids"][n] for n in example["word_positions"]])
    assert pieces == ["Ġa", "Ġ", "c", "a", "t"], "the blank before a word is no part of its first letter"
    assert labelling.head()["tokens_are_characters"] is True
    assert labelling.is_empty({"tokens": [" ", " "]}) and not labelling.is_empty(row)


@pytest.mark.parametrize("characters", [False, True])
def test_windows_give_every_token_exactly_one_tag(tokenizer, characters):
    labelling = TokenClassification(tokenizer, 0, TAGS, characters)
    tokens = [*"the cat sat on a mat, and the dog ran. " * 5] if characters else ["the", "zebra", "cat"] * 20
    row = {"tokens": tokens, "tags": [n % 3 for n in range(len(tokens))]}
    (examples,) = labelling.encode([row], 40)
    assert len(examples) > 2 and max(len(example["input_ids"]) for example in examples) <= 40
    # A model that copies the label which stands at a place.
    answers = []
    for example in examples:
        labels = labelling.collate([example])["labels"]
        logits = torch.nn.functional.one_hot(labels.clamp(min=0), 3)
        answers += labelling.answers(SimpleNamespace(logits=logits), [example])
    assert labelling.merged(answers) == row["tags"]


def test_a_token_longer_than_a_window_is_named_with_its_row(tokenizer):
    labelling = TokenClassification(tokenizer, 0, TAGS, False)
    rows = [{"tokens": ["cat"]}, {"tokens": ["cat", "z" * 50]}]
    with pytest.raises(ValueError, match="row 1002: token 2 alone has 5. pieces, more than the 39 that fit"):
        labelling.encode(rows, 40, first_row=1001)


def test_entities_are_scored_where_the_tags_are_entities(tokenizer):
    entities = TokenClassification(tokenizer, 0, TAGS, False)
    assert entities.best_metric == "f1"
    rows, answers = [{"tags": [0, 1, 2, 0]}], [[0, 1, 2, 2]]
    scores = {"tag_accuracy": 75.0, "f1": 66.67, "precision": 100.0, "recall": 50.0}
    assert entities.measure(answers, rows) == scores
    plain = TokenClassification(tokenizer, 0, ClassNames(("ADJ", "NOUN", "O")), False)
    assert plain.metrics == ("tag_accuracy",) == (plain.best_metric,)
    assert plain.measure(answers, rows) == {"tag_accuracy": 75.0}
    assert plain.written([1, 0], {"tokens": ["a", "b"]}) == {"tokens": ["a", "b"], "tags": ["NOUN", "ADJ"]}


PERSON = ClassNames(("B-PER", "O"))  # whose training part has names of one word only


@pytest.mark.parametrize(
    ("given", "predicted", "scores"),
    [
        # The name of two words, of which one is predicted, is not found: the one would be right.
        (["B-PER", "I-PER", "O", "B-PER"], ["B-PER", "O", "O", "B-PER"], (75.0, 50.0, 50.0)),
        (["O", "B-PER", "I-PER", "I-PER"], ["O", "B-PER", "O", "O"], (50.0, 0.0, 0.0)),
        # Another entity that begins behind it is none of its business.
        (["B-PER", "B-ORG", "I-ORG", "O"], ["B-PER", "O", "O", "O"], (50.0, 100.0, 50.0)),
        (["B-PER", "I-ORG", "O", "O"], ["B-PER", "O", "O", "O"], (75.0, 100.0, 50.0)),
        # Two that stand side by side are two, and one of two words is one.
        (["B-ORG", "B-ORG", "O", "B-PER"], ["O", "O", "O", "B-PER"], (50.0, 100.0, 33.33)),
        (["B-ORG", "I-ORG", "O", "B-PER"], ["O", "O", "O", "B-PER"], (50.0, 100.0, 50.0)),
        (["B-ORG", "B-LOC", "I-LOC", "B-PER"], ["O", "O", "O", "B-PER"], (25.0, 100.0, 33.33)),
        # What is no tag of an entity at all is one by itself.
        (["X", "X", "O", "B-PER"], ["O", "O", "O", "B-PER"], (50.0, 100.0, 33.33)),
        # Nothing is unknown.
        (["B-PER", "B-PER", "O", "O"], ["B-PER", "O", "O", "O"], (75.0, 100.0, 50.0)),
    ],
)
def test_an_entity_with_a_tag_that_training_has_not_is_never_found(tokenizer, given, predicted, scores):
    labelling = TokenClassification(tokenizer, 0, PERSON, False)
    rows = Dataset.from_dict({"tokens": [["a"] * len(given)], "tags": [given]})
    numbered = labelling.classes.encode(rows, "tags", "test", refuse_unknown=False)
    found = labelling.measure([[PERSON.label2id[name] for name in predicted]], list(numbered))
    assert (found["tag_accuracy"], found["precision"], found["recall"]) == scores


def test_an_entity_whose_first_tag_is_unknown_is_not_found_by_tags_that_begin_without_it(tokenizer):
    labelling = TokenClassification(tokenizer, 0, ClassNames(("I-PER", "O")), False)
    numbered = labelling.classes.encode(
        Dataset.from_dict({"tags": [["B-PER", "I-PER", "O", "I-PER"]]}), "tags", "test", False
    )
    scores = {"tag_accuracy": 75.0, "f1": 50.0, "precision": 50.0, "recall": 50.0}
    assert labelling.measure([[0, 0, 1, 0]], list(numbered)) == scores


def test_characters_are_learned_and_the_saved_model_knows_that_they_are(finetuning, write_rows):
    rows = [{"tokens": list(text), "tags": [1 if c == "a" else 0 for c in text]} for text in ("a cat", "the cat sat")]
    file = [write_rows(*rows * 3)]
    run = finetuning("token-classification", train_file=file, validation_file=file)
    run.run()
    assert run.folder.metrics()[0]["tag_accuracy"] == 100.0
    saved = AutoModelForTokenClassification.from_pretrained(run.folder.path)
    assert saved.config.tokens_are_characters and saved.config.id2label == {0: "0", 1: "1"}
