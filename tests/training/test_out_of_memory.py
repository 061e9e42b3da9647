from __future__ import annotations

import pytest
import torch

from vanilla_transformer.training.denoising import DenoisingTask
from vanilla_transformer.training.out_of_memory import MicroBatch, is_out_of_memory

SMALL = {"d_model": 16, "d_ff": 16, "dropout": 0.0}


def batch_of(run) -> MicroBatch:
    """Rows of quite different lengths, the longest first."""
    order = run.task.train.lengths.sum(1).argsort(kind="stable")[::-1]
    examples = run.task.train.examples.__getitems__([(0, int(index)) for index in [*order[:2], *order[-3:]]])
    return MicroBatch([example["index"] + 1 for example in examples], run.task.collator(examples))


@pytest.mark.parametrize(
    "task",
    ["translation", "denoising", "sequence-classification", "regression", "token-classification", "dependency-parsing"],
)
def test_the_losses_and_gradients_of_the_halves_add_up_to_those_of_the_whole(training, finetuning, labelled_toy, task):
    if task == "translation":
        run = training(dropout=0.0)
    elif task == "denoising":
        run = training(kind=DenoisingTask, dropout=0.0)
    elif task == "regression":
        file = [str(labelled_toy / "regression.jsonl")]
        run = finetuning("sequence-classification", train_file=file, validation_file=file, **SMALL)
    else:
        run = finetuning(task, **SMALL)
    whole = batch_of(run)

    def gradients(parts: list[MicroBatch]) -> tuple[float, list[torch.Tensor]]:
        run.plain.zero_grad()
        losses = [run.plain.train()(**part.tensors, num_items_in_batch=7).loss for part in parts]
        torch.stack(losses).sum().backward()
        return sum(loss.item() for loss in losses), [
            p.grad.clone() for p in run.plain.parameters() if p.grad is not None
        ]

    upper, lower = whole.halves()
    assert (upper.rows, lower.rows) == (whole.rows[:2], whole.rows[2:])
    expected, found = gradients([whole]), gradients([upper, lower])
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("task", ["translation", "token-classification", "dependency-parsing"])
def test_columns_that_are_padding_in_all_rows_of_a_half_are_left_out(training, finetuning, task):
    run = training() if task == "translation" else finetuning(task, **SMALL)
    batch = batch_of(run)
    lengths = batch.tensors["attention_mask"].sum(1)
    lower = batch.halves()[1]
    assert lower.tensors["input_ids"].shape[1] == lower.tensors["attention_mask"].shape[1] == lengths[2:].max()
    if task == "translation":
        assert lengths[2:].max() < lengths.max()
        targets = (batch.tensors["labels"] != -100).sum(1)
        assert lower.tensors["labels"].shape == lower.tensors["decoder_input_ids"].shape == (3, targets[2:].max())
        assert lower.size == 3 * int(lengths[2:].max() + targets[2:].max())


@pytest.mark.parametrize(
    "error, expected",
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:1] . DefaultCPUAllocator: can't allocate memory: you tried"),
            True,
        ),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:1] . DefaultCPUAllocator: not enough memory: you tried"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (ValueError("the loss is nan"), False),
    ],
)
def test_it_is_known_by_its_error(error, expected):
    assert is_out_of_memory(error) is expected
