"""The promises of the tasks with classes: learned, scored alike however it is batched, resumed bit for bit, saved as scored."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset

from vanilla_transformer.training import labelled_task
from vanilla_transformer.training.corpus_files import CorpusError
from vanilla_transformer.training.evaluation import as_saved
from vanilla_transformer.training.prediction import labelling_of, predict, task_of

LABELLED = ("sequence-classification", "token-classification", "dependency-parsing")
SCORE = dict(zip(LABELLED, ("accuracy", "f1", "las"), strict=True))


def judge(run: Any, part: str = "validation") -> dict[str, Any]:
    with as_saved(run.plain):
        return run.task.evaluate(run.accelerator, run.plain, getattr(run.task, part), 1)


def truth(run: Any) -> list[dict[str, Any]]:
    return list(labelled_task.rows_of(run.task.validation.texts))


@pytest.mark.parametrize("reads", ["encoder", "decoder"])
@pytest.mark.parametrize("task", LABELLED)
def test_a_tiny_model_learns_it_by_heart_and_what_is_saved_answers_as_it_was_scored(finetuning, task, reads):
    run = finetuning(task, head_reads=reads)
    start = judge(run)
    run.run()
    (row,) = run.folder.metrics()
    assert row[SCORE[task]] == 100.0 and row["loss"] < 0.2 < start["loss"]
    assert start[SCORE[task]] < 90, "nothing was left to learn"

    name, kind, _ = task_of(str(run.folder.path))
    loaded = kind.from_pretrained(run.folder.path)
    assert name == task and loaded.config.head_reads == reads
    labelling = labelling_of(loaded, run.tokenizer)
    answers = list(predict(loaded, labelling, run.task.validation.texts))
    assert labelling.measure(answers, truth(run))[SCORE[task]] == 100.0
    assert labelling.head() == run.task.labelling.head()


@pytest.mark.parametrize("task", LABELLED)
def test_scores_depend_neither_on_batches_nor_on_order(finetuning, labelled_toy, write_rows, task):
    run = finetuning(task, max_steps=2)
    run.run()
    scores = judge(run)
    assert 0 < scores["loss"] and 0 < scores.get("tag_accuracy", scores[SCORE[task]]) < 100
    file = dict(zip(LABELLED, ("classification", "tagging", "parsing"), strict=True))[task]
    rows = [json.loads(line) for line in (labelled_toy / f"{file}.jsonl").read_text().splitlines()]
    run.task.run.max_tokens = 8  # less than a row has: one row at a time
    assert judge(run) == pytest.approx(scores, abs=2e-5)
    other = finetuning(task, "other", validation_file=[write_rows(*rows[::-1])])
    other.plain.load_state_dict(run.plain.state_dict())
    assert judge(other) == pytest.approx(scores, abs=2e-5)


@pytest.mark.parametrize("task", LABELLED)
def test_the_loss_of_a_part_is_the_mean_over_its_rows_tags_or_words(finetuning, task):
    run = finetuning(task, max_tokens=64)
    corpus = run.task.validation
    examples = [corpus.examples[(0, n)] for n in range(len(corpus.examples))]
    loss = judge(run)["loss"]
    with torch.no_grad():
        # All in one batch, which divides by its own labels.
        assert loss == pytest.approx(run.plain.eval()(**run.task.collator(examples)).loss.item(), abs=2e-5)


@pytest.mark.parametrize("task", LABELLED)
def test_each_process_takes_its_share(finetuning, monkeypatch, task):
    """Two processes, played one after the other: what both find is what one alone finds."""
    run = finetuning(task, max_tokens=64)
    together = judge(run)
    shares: list[Any] = []

    def gather(own: list[Any]) -> list[Any]:
        shares.extend(own)
        return shares

    monkeypatch.setattr(labelled_task, "gather_object", gather)
    # The first process alone cannot score; it only leaves its share.
    monkeypatch.setattr(run.task.labelling, "measure", lambda answers, rows: {})
    run.plain.eval()
    processes: list[Any] = [
        SimpleNamespace(process_index=n, num_processes=2, device=torch.device("cpu")) for n in range(2)
    ]
    run.task.evaluate(processes[0], run.plain, run.task.validation, 1)
    monkeypatch.undo()
    monkeypatch.setattr(labelled_task, "gather_object", gather)
    assert run.task.evaluate(processes[1], run.plain, run.task.validation, 1) == together
    assert len(shares) == 2 and all(len(answered) > 5 for _, _, answered in shares)


@pytest.mark.parametrize("task", ["token-classification"])
def test_resumed_is_never_stopped_bit_for_bit(finetuning, saved_state, task):
    flags = {"dropout": 0.1, "max_steps": 4, "save_steps": 2, "max_tokens": 200}
    whole = finetuning(task, "whole", **flags)
    whole.run()
    finetuning(task, "part", **flags | {"max_steps": 2}).run()
    rest = finetuning(task, "part", resume=True, **flags)
    rest.run()
    states = [saved_state(run.folder.checkpoints / "step-4") for run in (whole, rest)]
    assert states[0] == states[1]


# ------------------------------------------------------------------------------------------------ empty and over-long


def test_empty_and_over_long_rows_are_left_out_of_training_and_counted_but_scored(finetuning, write_rows):
    long = " ".join(["the red cat"] * 20)
    file = write_rows(
        {"text": "the red cat", "label": "animal"}, {"text": " ", "label": "animal"},
        {"text": long, "label": "thing"}, {"text": "the old house", "label": "thing"},
    )  # fmt: skip
    run = finetuning("sequence-classification", train_file=[file], validation_file=[file])
    train, validation = run.task.train, run.task.validation
    assert str(train.dropped) == ("kept 2 of 4 rows; dropped 1 empty (row 2) and 1 longer than 32 text tokens (row 3)")
    assert [train.row(n) for n in range(2)] == [1, 4] and len(train.examples) == len(train.lengths) == 2
    assert "kept all 4 rows; cut 1 longer than 32 tokens into" in str(validation.dropped)
    assert [validation.row(n) for n in range(len(validation.lengths))].count(3) == validation.dropped.pieces > 1
    assert validation.lengths.max() <= 32
    answers = []
    measure = run.task.labelling.measure
    run.task.labelling.measure = lambda given, rows: (answers.extend(given), measure(given, rows))[1]
    judge(run)
    assert len(answers) == 4
    # An answer of windows is the mean of theirs, as `predict` has it.
    predicted = list(predict(run.plain, run.task.labelling, validation.texts))
    for one, other in zip(answers, predicted, strict=True):
        assert one == pytest.approx(other, abs=1e-6)


@pytest.mark.parametrize("task", ["token-classification", "dependency-parsing"])
def test_a_sentence_without_tokens_is_left_out_of_training_and_scored(finetuning, write_rows, task):
    none = {"tokens": [], "tags": [], "head": [], "deprel": []}
    one = {"tokens": ["the", "cat"], "tags": ["O", "X"], "head": [2, 0], "deprel": ["det", "root"]}
    run = finetuning(task, train_file=[write_rows(one, none, one)], validation_file=[write_rows(none, one)])
    assert "dropped 1 empty (row 2)" in str(run.task.train.dropped)
    run.task.run.max_tokens = 1
    scores = judge(run)  # a batch of the empty sentence alone, too
    run.task.run.max_tokens = 64
    assert judge(run) == pytest.approx(scores, abs=2e-5)
    answers = list(predict(run.plain, run.task.labelling, run.task.validation.texts))
    assert len(answers) == 2 and answers[0] in ([], ([], []))


@pytest.mark.parametrize("reads, most", [("encoder", 20), ("decoder", 10)])
def test_a_text_may_be_as_long_as_a_batch_of_all_that_read_it(finetuning, write_rows, reads, most):
    def long(length: int) -> dict[str, str]:
        return {"text": " ".join(["cat"] * (length - 1)), "label": f"{length % 2}"}  # and </s>

    file = [write_rows(*map(long, (4, most, most + 1)))]
    data = {"train_file": file, "validation_file": [], "head_reads": reads, "max_steps": 2}
    run = finetuning("sequence-classification", max_tokens=20, **data)
    assert str(run.task.train.dropped) == f"kept 2 of 3 rows; dropped 1 longer than {most} text tokens (row 3)"
    run.run()
    shorter = finetuning("sequence-classification", "shorter", max_tokens=20, max_source_length=most - 1, **data)
    assert shorter.task.train.dropped.over_long == 2
    with pytest.raises(
        ValueError, match=f"^max_source_length={most + 1} is more than {most}, the less of max_position_emb"
    ):
        finetuning("sequence-classification", "longer", max_tokens=20, max_source_length=most + 1, **data)
    # The model's positions are a limit as well.
    file = [write_rows(*map(long, (32, 31, 33)))]
    run = finetuning("sequence-classification", "wide", max_tokens=600, **data | {"train_file": file})
    assert run.task.train.dropped.over_long_rows == (3,)


def test_bpe_dropout_cuts_training_texts_anew_both_of_a_pair(finetuning, write_rows):
    given = {"text": "the red cat", "text_pair": "a tall house", "label": "x"}
    file = write_rows(given, {**given, "label": "y"})
    run = finetuning("sequence-classification", train_file=[file], validation_file=[file], bpe_dropout=0.5)
    task, tokenizer = run.task, run.tokenizer
    plain = task.train.examples.encoded[0]["input_ids"]
    seen = [task.train.examples[(epoch, 0)]["input_ids"] for epoch in range(20)]
    assert len({tuple(ids) for ids in seen}) > 10 and {ids.count(tokenizer.eos_token_id) for ids in seen} == {2}
    assert {tokenizer.decode(ids) for ids in seen} == {tokenizer.decode(plain)}
    assert seen == [task.train.examples[(epoch, 0)]["input_ids"] for epoch in range(20)], "by seed, epoch and row alone"
    assert task.validation.examples[(0, 0)]["input_ids"] == plain
    task.positions = len(plain)
    assert {len(task.train.examples[(epoch, 0)]["input_ids"]) for epoch in range(20)} == {len(plain)}


def test_pieces_are_drawn_by_the_seed_of_the_run(finetuning):
    def seen(folder: str, seed: int) -> list[list[int]]:
        examples = finetuning("sequence-classification", folder, bpe_dropout=0.5, seed=seed).task.train.examples
        return [examples[(0, n)]["input_ids"] for n in range(len(examples))]

    assert seen("one", 3) == seen("same", 3) != seen("other", 4)


def test_nothing_left_to_train_on_is_refused(finetuning, write_rows):
    file = write_rows({"text": "", "label": "a"}, {"text": " ", "label": "b"})
    with pytest.raises(
        CorpusError, match=r"no row of the training data is left: kept 0 of 2 rows; dropped 2 empty \(rows 1, 2"
    ):
        finetuning("sequence-classification", train_file=[file], validation_file=[])


def test_a_sentence_too_long_for_a_tree_is_named_with_its_part_and_row(finetuning, write_rows):
    fine = {"tokens": ["the", "cat"], "head": [2, 0], "deprel": ["det", "root"]}
    long = {"tokens": ["cat"] * 60, "head": [0, *[1] * 59], "deprel": ["root", *["det"] * 59]}
    said = "^validation, row 3: the sentence 'cat cat .* has .* tokens, more than 32, and no tree is made in parts: split it"
    with pytest.raises(CorpusError, match=said):
        finetuning("dependency-parsing", validation_file=[write_rows(fine, fine, long)])
    run = finetuning("dependency-parsing", train_file=[write_rows(fine, long, fine)], validation_file=[])
    assert "dropped 1 longer than 32 text tokens (row 2)" in str(run.task.train.dropped)


# --------------------------------------------------------------------------------------------- classes that are unknown


@pytest.mark.parametrize(
    "task, row",
    [
        ("sequence-classification", {"text": "the cat", "label": "plant"}),
        ("token-classification", {"tokens": ["the", "cat"], "tags": ["O", "B-plant"]}),
        ("dependency-parsing", {"tokens": ["the", "cat"], "head": [2, 0], "deprel": ["plant", "root"]}),
    ],
)  # fmt: skip
def test_an_unknown_class_is_refused_or_counted_as_wrong(finetuning, labelled_toy, write_rows, task, row):
    file = write_rows(row)
    known = dict(zip(LABELLED, ("animal, thing", "B-animal, B-thing", "amod, cc"), strict=True))[task]
    said = f"^test, row 1: .*plant' is none of the classes: {known}.*; or count such labels as wrong: --unknown-labels wrong$"
    with pytest.raises(CorpusError, match=said):
        finetuning(task, test_file=[file])
    run = finetuning(task, test_file=[file], unknown_labels="wrong")
    assert str(run.task.test.dropped).endswith("plant (1)") and "counted as wrong: " in str(run.task.test.dropped)
    run.run()
    test = run.folder.metrics()[-1]
    assert test["split"] == "test"
    if task == "sequence-classification":
        assert (test["accuracy"], test["macro_f1"], test["loss"]) == (0, 0, 0)
    elif task == "token-classification":
        assert test["tag_accuracy"] <= 50 and test["recall"] == 0 == test["f1"]
    else:
        assert test["las"] <= 50 and test["uas"] <= 100


def test_best_metric_must_be_one_of_the_tasks(finetuning):
    with pytest.raises(
        ValueError, match="best_metric=bleu is nothing that this task measures; choose las or uas or loss"
    ):
        finetuning("dependency-parsing", best_metric="bleu")


def test_rows_are_numbered_on_from_one_chunk_to_the_next(finetuning):
    labelling = finetuning("dependency-parsing").task.labelling
    counts = [1] * 1500 + [60]
    trees = {"head": [[*range(n)] for n in counts], "deprel": [[0] * n for n in counts]}
    rows = Dataset.from_dict({"tokens": [["cat"] * n for n in counts], **trees})
    with pytest.raises(ValueError, match="^row 1501: "):
        labelled_task.encode(rows, labelling, 32)


def test_a_scored_text_is_cut_where_the_model_ends_not_where_a_batch_does(finetuning, write_rows):
    file = write_rows({"text": "the red cat and the dog " * 2, "label": "a"}, {"text": "the cat", "label": "b"})
    runs = [
        finetuning("sequence-classification", f"{most}", train_file=[file], validation_file=[file], max_tokens=most)
        for most in (16, 600)
    ]
    assert [run.task.train.dropped.over_long for run in runs] == [1, 0]
    assert all(run.task.validation.lengths.max() > 8 and not run.task.validation.dropped.cut for run in runs)
    assert judge(runs[0]) == pytest.approx(judge(runs[1]), abs=2e-5)
