"""One update of the weights.

An update adds up the gradients of `accumulation_steps` batches on each of W processes. Each batch's summed loss is
divided by the target tokens of all of them together, so that 1 x 16, 4 x 4 and 2 processes x 8 give one gradient;
dividing each batch by its own tokens, and then averaging, would weight short batches more.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from transformers import PreTrainedModel

from vanilla_transformer.training.arguments import RunArguments
from vanilla_transformer.training.evaluation import counted_labels
from vanilla_transformer.training.schedules import learning_rate
from vanilla_transformer.training.transfer import Transfer

Batch = dict[str, torch.Tensor]


class NonFiniteLossError(ValueError):
    """The loss became NaN or infinite; the weights were not touched by it."""


@dataclass
class Update:
    """What one update was, over all processes."""

    loss: float
    """mean over the target tokens, in nats"""
    target_tokens: int
    source_tokens: int
    learning_rate: float

    @property
    def tokens(self) -> int:
        return self.target_tokens + self.source_tokens


class Updates:
    """`make(number, micro_batches)` changes the weights once.

    Args:
        model, optimizer: as Accelerate prepared them.
        plain: the model without its wrapper.
        transfer: which weights learn, and how fast.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: torch.nn.Module,
        plain: PreTrainedModel,
        optimizer: Any,
        transfer: Transfer,
        run: RunArguments,
    ):
        self.accelerator, self.model, self.optimizer = accelerator, model, optimizer
        self.transfer, self.flags, self.d_model = transfer, run, plain.config.d_model

    def make(self, number: int, micro_batches: list[Batch]) -> Update:
        """Update `number`, counted from 1, with the micro-batches of this process; each also says its `rows`.

        Raises:
            NonFiniteLossError: on all processes, before the weights are changed.
        """
        accelerator, device = self.accelerator, self.accelerator.device
        rows: list[Any] = [batch.pop("rows") for batch in micro_batches]
        target_tokens = sum(counted_labels(batch["labels"]) for batch in micro_batches)
        source_tokens = sum(int(batch["attention_mask"].sum()) for batch in micro_batches)
        counted: Any = accelerator.reduce(torch.tensor([target_tokens, source_tokens], device=device), "sum")
        target_tokens, source_tokens = counted.tolist()

        rate = self._set_learning_rate(number)
        self.model.train()
        self.transfer.rest(number)
        losses = self._backward(micro_batches, target_tokens)
        mean: Any = accelerator.reduce(torch.stack(losses).sum(), "mean")
        mean_loss = mean.item()
        if not math.isfinite(mean_loss):
            guilty = [batch for batch, loss in zip(rows, losses, strict=True) if not loss.isfinite()]
            self._refuse_non_finite(f"the loss is {mean_loss}", number, guilty)
        self.transfer.drop_gradients(number)
        norm = self._clip_gradients()
        if accelerator.scaler is None and not math.isfinite(norm):  # fp16's scaler skips such an update itself
            self._refuse_non_finite(f"the norm of the gradient is {norm}", number, rows)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return Update(mean_loss, target_tokens, source_tokens, rate)

    def _backward(self, micro_batches: list[Batch], target_tokens: int) -> list[torch.Tensor]:
        """Adds up the gradients; the loss of each micro-batch, divided by `target_tokens` / processes."""
        accelerator = self.accelerator
        losses = []
        for number, batch in enumerate(micro_batches, start=1):
            batch = {name: tensor.to(accelerator.device, non_blocking=True) for name, tensor in batch.items()}
            is_last = number == len(micro_batches)
            with contextlib.nullcontext() if is_last else accelerator.no_sync(self.model):
                # W processes average their gradients; dividing by tokens / W makes that the sum over all tokens.
                loss = self.model(**batch, num_items_in_batch=target_tokens / accelerator.num_processes).loss
                accelerator.backward(loss)
            losses.append(loss.detach())
        return losses

    def _set_learning_rate(self, number: int) -> float:
        """The highest of the groups' rates."""
        run = self.flags
        rate = learning_rate(
            number,
            d_model=self.d_model,
            warmup_steps=run.warmup_steps,
            noam_factor=run.noam_factor,
            peak=run.learning_rate,
            schedule=run.schedule,
            max_steps=run.max_steps,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate"]
        return max(group["lr"] for group in self.optimizer.param_groups)

    def _clip_gradients(self) -> float:
        """The norm of the whole gradient, before it was clipped."""
        parameters = list(self.model.parameters())
        if self.flags.max_grad_norm:
            norm: Any = self.accelerator.clip_grad_norm_(parameters, self.flags.max_grad_norm)
        else:
            norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        return norm.item()

    def _refuse_non_finite(self, what: str, number: int, batches: list[list[int]]) -> NoReturn:
        """Names the rows of the batches that are to blame, of whichever process."""
        found = gather_object([row for batch in batches for row in batch])
        shown = ", ".join(map(str, found[:50])) + (f", ... ({len(found)} in all)" if len(found) > 50 else "")
        raise NonFiniteLossError(
            f"{what} at update {number}, before the weights were changed by it; it came from "
            f"train rows {shown}. Checkpoints stand as they were: look at these rows, lower the learning rate, "
            f"or raise warmup_steps"
        )
