from __future__ import annotations

import numpy as np
import pytest

from vanilla_transformer.training.corpus import CorpusError
from vanilla_transformer.training.denoising import DenoisingTask


def test_the_whole_text_is_learned_from_a_text_with_holes(training):
    run = training("run", DenoisingTask)
    mask = run.tokenizer.mask_token_id
    rows = run.task.train.examples.__getitems__([(0, index) for index in range(len(run.task.train.examples))])
    texts = run.task.train.examples.encoded["input_ids"]
    assert [row["labels"] for row in rows] == list(texts)
    assert all(row["input_ids"][-1] == run.tokenizer.eos_token_id for row in rows)
    share = np.mean([mask in row["input_ids"] for row in rows])
    assert share > 0.7 and not any(mask in row["labels"] for row in rows)


def test_noise_is_fresh_in_each_epoch_and_the_same_for_the_same_seed(training):
    examples = training("a", DenoisingTask).task.train.examples
    again = training("b", DenoisingTask).task.train.examples
    other = training("c", DenoisingTask, seed=2).task.train.examples
    keys = [[(epoch, index) for index in range(20)] for epoch in (0, 1)]
    assert examples.__getitems__(keys[0]) == again.__getitems__(keys[0])
    assert examples.__getitems__(keys[0]) != examples.__getitems__(keys[1])
    assert examples.__getitems__(keys[0]) != other.__getitems__(keys[0])


def test_a_test_file_is_taken_and_judged_by_its_loss(training, toy):
    run = training("run", DenoisingTask, test_file=[str(toy / "text.txt")], max_steps=1)
    run.run()
    assert [row["split"] for row in run.folder.metrics()] == ["validation", "test"]
    assert run.folder.metrics()[1]["loss"] > 0


def test_what_it_cannot_do_is_refused(training):
    with pytest.raises(CorpusError, match="give --train-file or --dataset-name"):
        training("a", DenoisingTask, train_file=[])
    with pytest.raises(
        ValueError, match="best_metric=bleu needs generated output, which this task has not; choose loss"
    ):
        training("b", DenoisingTask, best_metric="bleu")
