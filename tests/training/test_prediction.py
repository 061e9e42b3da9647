from __future__ import annotations

from typing import Any

import pytest
import yaml
from datasets import Dataset

from vanilla_transformer.modeling import VanillaTransformerModel
from vanilla_transformer.training import prediction
from vanilla_transformer.training.dependency_parsing import DependencyParsing
from vanilla_transformer.training.prediction import labelling_of, predict, task_of
from vanilla_transformer.training.token_classification import TokenClassification


def texts(run: Any, *given: str) -> Dataset:
    return Dataset.from_dict({"text": list(given)})


def test_answers_come_in_order_whatever_the_chunks_and_batches(finetuning):
    run = finetuning("sequence-classification", max_steps=3)
    run.run()
    rows: Any = texts(
        run, "the cat", "", "the red house " * 30, "a", *[f"the {word} dog" for word in "red old new tall".split()]
    )
    whole = [answer.tolist() for answer in predict(run.plain, run.task.labelling, rows)]
    assert len(whole) == 8 and len({tuple(answer) for answer in whole}) > 5
    for options in ({"max_tokens": 1}, {"chunk_rows": 3}, {"chunk_rows": 1, "max_tokens": 40}):
        other = [answer.tolist() for answer in predict(run.plain, run.task.labelling, rows, **options)]
        for one, two in zip(whole, other, strict=True):
            assert two == pytest.approx(one, abs=1e-6)
    alone = [
        answer.tolist() for row in rows for answer in predict(run.plain, run.task.labelling, texts(run, row["text"]))
    ]
    for one, two in zip(whole, alone, strict=True):
        assert two == pytest.approx(one, abs=1e-6)


def test_nothing_is_dropped_in_whatever_mode_the_model_is(finetuning):
    run = finetuning("sequence-classification", dropout=0.5)
    rows: Any = texts(run, "the red cat", "the old house")
    run.plain.train()
    first, second = ([answer.tolist() for answer in predict(run.plain, run.task.labelling, rows)] for _ in range(2))
    assert first == second


def test_rows_are_read_chunk_by_chunk_as_answers_are_taken(finetuning, monkeypatch):
    run = finetuning("sequence-classification", max_steps=1)
    labelling = run.task.labelling
    seen: list[int] = []
    encode = labelling.encode
    monkeypatch.setattr(
        labelling, "encode", lambda rows, limit, first_row: (seen.append(first_row), encode(rows, limit, first_row))[1]
    )
    answers = predict(run.plain, labelling, texts(run, *["the cat"] * 10), chunk_rows=4)
    next(answers)
    assert seen == [1]
    assert len(list(answers)) == 9 and seen == [1, 5, 9]


def test_labels_are_not_looked_at(finetuning):
    run = finetuning("token-classification", max_steps=3)
    run.run()
    tokens = [["the", "red", "cat"], ["a", "dog"]]
    plain = list(predict(run.plain, run.task.labelling, Dataset.from_dict({"tokens": tokens})))
    labelled = Dataset.from_dict({"tokens": tokens, "tags": [["no", "such", "tag"], ["x", "y"]]})
    assert list(predict(run.plain, run.task.labelling, labelled)) == plain
    assert [len(answer) for answer in plain] == [3, 2]


def test_a_sentence_too_long_for_a_tree_is_named_by_its_row_in_all(finetuning):
    run = finetuning("dependency-parsing", max_steps=1)
    rows = Dataset.from_dict({"tokens": [["cat"]] * 5 + [["cat"] * 80]})
    with pytest.raises(ValueError, match="^row 6: the sentence 'cat cat cat"):
        list(predict(run.plain, run.task.labelling, rows, chunk_rows=2))


def test_what_a_folder_is(finetuning, tiny_folder_of):
    run = finetuning("dependency-parsing", max_steps=1, save_steps=1)
    run.run()
    name, kind, flags = task_of(str(run.folder.path))
    assert (name, kind.__name__, flags["task"]) == (
        "dependency-parsing",
        "VanillaTransformerForDependencyParsing",
        name,
    )
    (checkpoint,) = run.folder.checkpoints.glob("step-*")
    assert task_of(str(checkpoint)) == (name, kind, flags), "its run's"
    (run.folder.path / "training.yaml").unlink()
    assert task_of(str(run.folder.path)) == (name, kind, {})
    labelling = labelling_of(kind.from_pretrained(run.folder.path), run.tokenizer)
    assert isinstance(labelling, DependencyParsing) and labelling.classes == run.task.labelling.classes

    bare = tiny_folder_of(VanillaTransformerModel(run.plain.config), "bare")
    with pytest.raises(ValueError, match="bare is a VanillaTransformerModel, which has no task; fine-tune it first"):
        task_of(bare)


@pytest.mark.parametrize(
    "flags, task",
    [
        ({"task": "dialogue"}, "dialogue"),
        ({"task": "translation"}, "translation"),
        ({"source_lang": "en"}, "translation"),
        ({"mask_share": 0.3}, "denoising"),
        (None, "translation"),
    ],
)
def test_the_flags_tell_what_a_model_that_writes_does(training, tiny_folder_of, flags, task):
    folder = tiny_folder_of(training().plain, "writes")
    if flags is not None:
        with open(f"{folder}/training.yaml", "w") as file:
            yaml.safe_dump({"flags": flags}, file)
    assert task_of(folder)[0] == task and task_of(folder)[2] == (flags or {})


def test_characters_are_told_by_the_configuration(finetuning, write_rows):
    file = [write_rows({"tokens": list("a b"), "tags": [0, 1, 0]})]
    run = finetuning("token-classification", train_file=file, validation_file=[], max_steps=1)
    labelling = labelling_of(run.plain, run.tokenizer)
    assert isinstance(labelling, TokenClassification) and labelling.pieces.characters
    assert set(prediction.TASK_OF_CLASS.values()) >= {"token-classification", "dependency-parsing"}


@pytest.fixture
def tiny_folder_of(tmp_path):
    def save(model: Any, name: str) -> str:
        model.save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    return save
