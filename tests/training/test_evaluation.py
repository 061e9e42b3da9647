from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vanilla_transformer.training import evaluation
from vanilla_transformer.training.encoding import pair_lengths
from vanilla_transformer.training.evaluation import as_saved, negative_log_likelihood
from vanilla_transformer.training.token_batches import cut_batches


def judge(run, max_tokens: int = 128) -> dict[str, float]:
    with as_saved(run.plain):
        return negative_log_likelihood(run.accelerator, run.plain, run.task, run.task.validation, max_tokens)


def test_a_model_that_knows_nothing_has_the_loss_log_v(training):
    run = training()
    with torch.no_grad():
        run.plain.lm_head.weight.zero_()
    vocabulary = run.plain.config.vocab_size
    assert judge(run) == {"loss": round(math.log(vocabulary), 5), "perplexity": pytest.approx(vocabulary, abs=1e-3)}


def test_the_loss_is_that_of_each_token_without_smoothing_and_dropout(training):
    run = training(dropout=0.5, label_smoothing=0.3)
    run.plain.train()
    encoded = run.task.validation.examples.encoded
    reference, tokens = 0.0, 0
    for row in encoded:  # one by one: no padding, no batch
        source, target = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
        shifted = torch.cat([torch.tensor([[1]]), target[:, :-1]], dim=1)
        run.plain.eval()
        with torch.no_grad():
            logits = run.plain(input_ids=source, decoder_input_ids=shifted).logits
        run.plain.train()
        reference -= logits.log_softmax(-1)[0, range(target.shape[1]), target[0]].sum().item()
        tokens += target.shape[1]
    result = judge(run)
    assert result["loss"] == pytest.approx(reference / tokens, abs=2e-5)
    assert result["perplexity"] == pytest.approx(math.exp(reference / tokens), rel=1e-4)


def test_the_loss_does_not_depend_on_how_the_rows_are_batched(training):
    run = training()
    lengths = pair_lengths(run.task.validation.examples.encoded)
    one_row = int(lengths.sum(1).max())
    assert len(cut_batches(lengths, one_row, None)) > 3 and len(cut_batches(lengths, 4096, None)) == 1
    assert judge(run, one_row)["loss"] == pytest.approx(judge(run, 4096)["loss"], abs=1e-5)


def test_each_process_takes_its_share(training, monkeypatch):
    """Two processes, played one after the other: what both sum up is what one alone gives."""
    run = training()
    together = judge(run, 64)
    shares = []

    def gather(own):
        shares.extend(own)
        return shares

    monkeypatch.setattr(evaluation, "gather_object", gather)
    run.plain.eval()
    for index in range(2):
        process: Any = SimpleNamespace(process_index=index, num_processes=2, device=torch.device("cpu"))
        both = negative_log_likelihood(process, run.plain, run.task, run.task.validation, 64)
    assert both == together
    assert len(shares) == 2 and all(tokens > 0 for _, tokens in shares)
    assert sum(tokens for _, tokens in shares) == pair_lengths(run.task.validation.examples.encoded)[:, 1].sum()


def test_as_saved_takes_off_the_autocast_of_training_and_puts_it_back(training):
    run = training(precision="bf16", dropout=0.5)
    run.plain.train()
    wrapped = run.plain.forward
    ids = torch.tensor([[9, 8, 2]])
    with as_saved(run.plain):
        assert not run.plain.training
        with torch.no_grad():
            exact = run.plain(input_ids=ids, labels=ids).logits
    assert run.plain.forward is wrapped
    run.plain.eval()
    with torch.no_grad():
        rounded = run.plain(input_ids=ids, labels=ids).logits
    assert not torch.equal(exact, rounded) and torch.allclose(exact, rounded, atol=0.1)

    plain = training("other")  # without a wrapper
    with pytest.raises(ZeroDivisionError), as_saved(plain.plain):
        raise ZeroDivisionError
    assert "forward" not in plain.plain.__dict__
