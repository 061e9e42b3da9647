"""Out of memory in the middle of a run: the batch is cut, the gradient is the same, and the run says so."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vanilla_transformer.training import updates
from vanilla_transformer.training.loop import Training
from vanilla_transformer.training.out_of_memory import MicroBatch

# With a large epsilon Adam's step is proportional to the gradient: equal weights mean equal gradients.
PROPORTIONAL: dict[str, Any] = {
    **{"adam_epsilon": 1.0, "learning_rate": 1.0, "warmup_steps": 1, "dropout": 0.0},
    **{"validation_file": [], "max_tokens": 400, "accumulation_steps": 2},
}


@pytest.fixture(autouse=True)
def no_collection(monkeypatch):
    """Among the objects of all these imports the collector takes longer than training."""
    monkeypatch.setattr(updates, "free_memory", lambda: None)


def raised_by_the_device() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def raised_by_the_allocator() -> None:
    torch.empty(2**60, dtype=torch.uint8)  # an exbibyte


def limit_memory(run: Training, most: int, fail=raised_by_the_device) -> list[torch.Size]:
    """Makes memory end half-way through the backward pass of sources of more than `most` tokens: the decoder has its gradient
    by then, and the encoder not. The shapes (B, S) that did not fit are added to the list.
    """
    failed: list[torch.Size] = []

    def watch(module: Any, inputs: Any, output: Any) -> None:
        shape = output.last_hidden_state.shape[:2]

        def refuse(gradient: torch.Tensor) -> None:
            if shape.numel() > most:
                failed.append(shape)
                fail()

        output.last_hidden_state.register_hook(refuse)

    run.plain.get_encoder().register_forward_hook(watch)
    return failed


@pytest.mark.parametrize("fail", [raised_by_the_device, raised_by_the_allocator])
def test_a_batch_that_does_not_fit_is_made_in_halves_with_the_same_gradient_and_the_run_says_so(training, capsys, fail):
    whole = training("whole", max_steps=2, **PROPORTIONAL)
    parts = training("parts", max_steps=2, **PROPORTIONAL)
    start = {key: tensor.clone() for key, tensor in whole.plain.state_dict().items()}
    whole.run()
    capsys.readouterr()
    failed = limit_memory(parts, 60, fail)
    parts.run()
    assert failed and parts.progress.loss_tokens == whole.progress.loss_tokens
    assert parts.folder.metrics()[0]["train_loss"] == pytest.approx(whole.folder.metrics()[0]["train_loss"], abs=2e-5)
    for key, tensor in whole.plain.state_dict().items():
        assert (tensor - start[key]).abs().max() > 1e-3, key
        torch.testing.assert_close(parts.plain.state_dict()[key], tensor, rtol=1e-4, atol=2e-6, msg=key)
    told = [line for line in capsys.readouterr().out.splitlines() if "out of memory" in line]
    assert len(told) == len(failed)  # each is a new limit
    assert told[0].startswith(f"Update 1: out of memory with a batch of {failed[0][0]} rows x ({failed[0][1]} + ")


def test_what_did_not_fit_is_not_tried_again(training):
    run = training(max_steps=1, **PROPORTIONAL)
    failed = limit_memory(run, 60)

    def make(number: int) -> int | None:
        examples = run.task.train.examples.__getitems__([(0, index) for index in range(35)])
        run.updates.make(number, [{**run.task.collator(examples), "rows": [*range(1, 36)]}])
        return run.updates.too_large

    limit, failures = make(1), len(failed)
    assert failures > 0
    assert make(2) == limit and len(failed) == failures


def test_a_single_row_that_does_not_fit_is_named(training):
    run = training(max_steps=1, **PROPORTIONAL)
    limit_memory(run, 0)
    with pytest.raises(
        ValueError, match=r"^out of memory on cpu at update 1: train row \d+ does not fit by itself, 1 row x \("
    ):
        run.run()
    assert all(parameter.grad is None for parameter in run.plain.parameters())


def test_with_several_processes_none_is_cut_and_the_process_is_named(training):
    made = training(max_steps=1, **PROPORTIONAL).updates
    made.accelerator = SimpleNamespace(num_processes=4, process_index=2, device="cuda:2")
    part = MicroBatch([3, 4], {"input_ids": torch.ones(2, 7), "decoder_input_ids": torch.ones(2, 5)})
    with pytest.raises(
        ValueError, match=r"cuda:2 at update 9, in process 2 of 4, with a batch of 2 rows x \(7 \+ 5\) tokens"
    ):
        made._refuse_if_it_cannot_be_cut(part, 9)


def test_other_errors_are_not_taken_for_it(training):
    run = training(max_steps=1, **PROPORTIONAL)

    def fail() -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    limit_memory(run, 0, fail)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        run.run()


def test_an_optimizer_that_does_not_fit_is_told_in_one_line(training):
    run = training(max_steps=1, **PROPORTIONAL)
    run.optimizer.step = raised_by_the_device
    with pytest.raises(ValueError, match="the weights and the optimizer's two numbers for each do not fit"):
        run.run()
