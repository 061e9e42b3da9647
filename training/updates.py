"""One update of the weights.

An update adds up the gradients of `accumulation_steps` batches on each of W processes. Each batch's summed loss is
divided by the target tokens of all of them together, so that 1 x 16, 4 x 4 and 2 processes x 8 give one gradient;
dividing each batch by its own tokens, and then averaging, would weight short batches more.

For the same reason a batch that does not fit into memory can be made in halves, and is: see `out_of_memory.py`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from transformers import PreTrainedModel

from vanilla_transformer.training.arguments import RunArguments
from vanilla_transformer.training.evaluation import counted_labels
from vanilla_transformer.training.out_of_memory import Batch, MicroBatch, free_memory, is_out_of_memory
from vanilla_transformer.training.schedules import learning_rate
from vanilla_transformer.training.transfer import Transfer


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
        tell: prints a line.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: torch.nn.Module,
        plain: PreTrainedModel,
        optimizer: Any,
        transfer: Transfer,
        run: RunArguments,
        tell: Callable[[str], None],
    ):
        self.accelerator, self.model, self.optimizer = accelerator, model, optimizer
        self.transfer, self.flags, self.d_model, self.tell = transfer, run, plain.config.d_model, tell
        self.too_large: int | None = None
        """the smallest batch, in tokens, that did not fit into memory"""

    def make(self, number: int, micro_batches: list[Batch]) -> Update:
        """Update `number`, counted from 1, with the micro-batches of this process; each also says its `rows`.

        Raises:
            NonFiniteLossError: on all processes, before the weights are changed.
            ValueError: memory does not suffice, and no batch can be cut.
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
        parts = [MicroBatch(*part) for part in zip(rows, micro_batches, strict=True)]
        parts, losses = self._gradient(number, parts, target_tokens)
        mean: Any = accelerator.reduce(torch.stack(losses).sum(), "mean")
        mean_loss = mean.item()
        if not math.isfinite(mean_loss):
            guilty = [part.rows for part, loss in zip(parts, losses, strict=True) if not loss.isfinite()]
            self._refuse_non_finite(f"the loss is {mean_loss}", number, guilty)
        self.transfer.drop_gradients(number)
        norm = self._clip_gradients()
        if accelerator.scaler is None and not math.isfinite(norm):  # fp16's scaler skips such an update itself
            self._refuse_non_finite(f"the norm of the gradient is {norm}", number, rows)
        self._step()
        self.optimizer.zero_grad()
        return Update(mean_loss, target_tokens, source_tokens, rate)

    def _gradient(
        self, number: int, parts: list[MicroBatch], target_tokens: int
    ) -> tuple[list[MicroBatch], list[torch.Tensor]]:
        """Adds it up, in as many parts as memory needs. These, and the loss of each, divided by `target_tokens` / processes."""
        parts = [small for part in parts for small in self._small_enough(part)]
        while len(losses := self._backward(parts, target_tokens)) < len(parts):
            guilty = parts[len(losses)]
            # A backward pass that broke off has left some of its gradients: all parts begin again.
            self.optimizer.zero_grad()
            free_memory()
            self._refuse_if_it_cannot_be_cut(guilty, number)
            self.too_large = guilty.size
            self.tell(
                f"Update {number}: out of memory with a batch of {guilty}. It is made again in halves, which add up to the same "
                f"gradient; so will all batches of {guilty.size:,} tokens or more. A smaller --max-tokens is faster."
            )
            parts = [small for part in parts for small in self._small_enough(part)]
        return parts, losses

    def _backward(self, parts: list[MicroBatch], target_tokens: int) -> list[torch.Tensor]:
        """The losses of the parts before the first that does not fit into memory; of all, if there is none."""
        accelerator = self.accelerator
        losses: list[torch.Tensor] = []
        for number, part in enumerate(parts, start=1):
            is_last = number == len(parts)
            try:
                batch = {
                    name: tensor.to(accelerator.device, non_blocking=True) for name, tensor in part.tensors.items()
                }
                with contextlib.nullcontext() if is_last else accelerator.no_sync(self.model):
                    # W processes average their gradients; dividing by tokens / W makes that the sum over all tokens.
                    loss = self.model(**batch, num_items_in_batch=target_tokens / accelerator.num_processes).loss
                    accelerator.backward(loss)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                return losses
            losses.append(loss.detach())
        return losses

    def _small_enough(self, part: MicroBatch) -> list[MicroBatch]:
        """Halves, and halves of these, until none is as large as what did not fit."""
        if self.too_large is None or part.size < self.too_large or len(part.rows) == 1:
            return [part]
        return [small for half in part.halves() for small in self._small_enough(half)]

    def _refuse_if_it_cannot_be_cut(self, part: MicroBatch, number: int) -> None:
        accelerator = self.accelerator
        where = f"out of memory on {accelerator.device} at update {number}"
        if accelerator.num_processes > 1:  # the others already wait for gradients, as many as were agreed upon
            raise ValueError(
                f"{where}, in process {accelerator.process_index} of {accelerator.num_processes}, with a batch of {part}: with "
                f"several processes it cannot be cut; take a smaller max_tokens and more accumulation_steps (--resume --override "
                f"goes on from the last checkpoint), or --max-tokens auto"
            )
        if len(part.rows) == 1:
            raise ValueError(
                f"{where}: train row {part.rows[0]} does not fit by itself, {part}; leave rows as long as that out "
                f"(max_source_length, max_target_length), or take gradient_checkpointing, precision=bf16 or a smaller model"
            )

    def _step(self) -> None:
        try:
            self.optimizer.step()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise ValueError(
                f"out of memory on {self.accelerator.device}: the weights and the optimizer's two numbers for each do not fit, "
                f"whatever the batch; take a smaller model, or lora_rank"
            ) from None

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
