"""Scores of a model as whoever loads it will have it: without dropout, without training's lower precision."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from vanilla_transformer.training.collation import IGNORED_LABEL
from vanilla_transformer.training.task import Corpus, Task
from vanilla_transformer.training.token_batches import cut_batches


@contextlib.contextmanager
def as_saved(model: PreTrainedModel) -> Iterator[None]:
    """The model in evaluation mode, and without the autocast that Accelerate puts around `forward`; put back after."""
    autocast_forward = model.__dict__.pop("forward", None)
    model.eval()
    try:
        yield
    finally:
        if autocast_forward is not None:
            model.forward = autocast_forward


@torch.no_grad()
def negative_log_likelihood(
    accelerator: Accelerator, model: PreTrainedModel, task: Task, corpus: Corpus, max_tokens: int
) -> dict[str, float]:
    """`loss`, in nats per target token, not smoothed, and `perplexity`, its exponential (Table 3's PPL).

    Every process must call it; each takes its share of the batches of at most `max_tokens`.
    """
    total = torch.zeros(2, dtype=torch.float64, device=accelerator.device)
    parts = cut_batches(corpus.lengths, max_tokens, None)
    for part in parts[accelerator.process_index :: accelerator.num_processes]:
        batch = task.collator(corpus.examples.__getitems__([(0, int(index)) for index in part]))
        batch = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
        labels = batch.pop("labels")
        logits = model(**batch).logits.float()
        total[0] += torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
        total[1] += (labels != IGNORED_LABEL).sum()
    summed: Any = accelerator.reduce(total, "sum")
    nll, tokens = summed.tolist()
    # exp of more than 700 is beyond float64, and means nothing anyway
    return {"loss": round(nll / tokens, 5), "perplexity": round(math.exp(min(nll / tokens, 700)), 4)}
