"""Scores of a model as whoever loads it will have it: without dropout, without training's lower precision."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from transformers import PreTrainedModel

from vanilla_transformer.modeling.loss import IGNORED, linear_smoothed_cross_entropy
from vanilla_transformer.training.token_batches import cut_batches


@contextlib.contextmanager
def as_saved(model: PreTrainedModel) -> Iterator[None]:
    """The model in evaluation mode, in which it stays, and without the autocast that Accelerate puts around `forward`,
    which is put back after.
    """
    autocast_forward = model.__dict__.pop("forward", None)
    model.eval()
    try:
        yield
    finally:
        if autocast_forward is not None:
            model.forward = autocast_forward


def counted_labels(labels: torch.Tensor) -> int:
    """What a loss is divided by: classes and tokens that are not -100; of numbers to be hit, every one."""
    return labels.numel() if labels.is_floating_point() else int((labels != IGNORED).sum())


@torch.no_grad()
def negative_log_likelihood(
    accelerator: Accelerator, model: PreTrainedModel, task: Any, corpus: Any, max_tokens: int
) -> dict[str, float]:
    """`loss`, in nats per target token, not smoothed, and `perplexity`, its exponential (Table 3's PPL).

    `task` and `corpus` are of task.py, which calls this. Every process must call it; each takes its share of the batches of
    at most `max_tokens`.
    """
    output_layer: Any = model.get_output_embeddings()
    nll = tokens = 0.0  # Python's floats: some devices have no float64
    parts = cut_batches(corpus.lengths, max_tokens, None)
    for part in parts[accelerator.process_index :: accelerator.num_processes]:
        batch = task.collator(corpus.examples.__getitems__([(0, int(index)) for index in part]))
        batch = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
        labels = batch.pop("labels")
        hidden = model.base_model(**batch).last_hidden_state
        # Without smoothing, and without ever holding the logits, which would take more memory than training does.
        nll += linear_smoothed_cross_entropy(hidden, output_layer, labels, epsilon=0.0).item()
        tokens += (labels != IGNORED).sum().item()
    shares = gather_object([(nll, tokens)])
    nll, tokens = (math.fsum(column) for column in zip(*shares, strict=True))
    # exp of more than 700 is beyond float64, and means nothing anyway
    return {"loss": round(nll / tokens, 5), "perplexity": round(math.exp(min(nll / tokens, 700)), 4)}
