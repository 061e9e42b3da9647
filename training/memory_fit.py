"""`--max-tokens auto`: the largest batch that fits into memory, found once, before a run begins.

A model of its own, which is thrown away, makes whole updates (forward, backward, Adam) with the worst that a batch of so many
tokens can hold: only rows of the longest length allowed, and only short ones.

    GPU         tokens are doubled until memory does not suffice, then halved in between until 5 % are known
    processor   it is not told when memory is at its end, it is killed: the bytes of all tensors are counted for some small
                batches, and the line through the last two says how many tokens the free memory is enough for

The run begins behind it, with its model drawn from the seed: it is the same, bit for bit, as with the number given by hand.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, gather_object
from transformers import PreTrainedModel

from vanilla_transformer.modeling import (
    VanillaTransformerForDependencyParsing,
    VanillaTransformerForTokenClassification,
)
from vanilla_transformer.training.accelerator import make_accelerator
from vanilla_transformer.training.arguments import DataArguments, RunArguments, TransferArguments
from vanilla_transformer.training.machine_memory import LiveBytes, free_bytes
from vanilla_transformer.training.optimizer import ready_to_learn
from vanilla_transformer.training.out_of_memory import Batch, free_memory, is_out_of_memory
from vanilla_transformer.training.run_folder import recorded_flags

MOST = 50_000
"""tokens: a whole update of the paper's (section 5.1). Larger batches are hardly faster on any device, and make updates rare"""
FIRST = 256
"""tokens that are tried first"""
SHORT = 8
"""tokens of a short source, and of a short target"""
SHARE = 0.9
"""of what fits is taken: blocks of other shapes leave holes between them"""
PROCESSOR_SHARE = 0.5
"""of the free memory is counted on: a process takes up to 1.7 times the bytes of its tensors (measured), and scores its model"""


def settle_max_tokens(arguments: Sequence[Any], make_model: Callable[[], Any]) -> None:
    """Where the flags say `max_tokens=auto`, put the number there: of a run that is resumed its own, else the largest that fits.

    Args:
        arguments: the dataclasses of all flags.
        make_model: a model as the run will have it; it is called once, and its model is changed.

    Raises:
        ValueError: there is no such number.
    """
    run = next(part for part in arguments if isinstance(part, RunArguments))
    if run.max_tokens != "auto":
        return
    data = next(part for part in arguments if isinstance(part, DataArguments))
    transfer = next((part for part in arguments if isinstance(part, TransferArguments)), TransferArguments())
    accelerator = make_accelerator(run)
    if run.resume:
        known = recorded_flags(Path(run.output_dir)).get("max_tokens")
        if not isinstance(known, int):
            raise ValueError(
                f"max_tokens=auto with --resume takes the number that the run began with, and output_dir {run.output_dir} holds "
                f"no run; leave out --resume to begin"
            )
        run.max_tokens = known
        accelerator.print(f"max_tokens=auto: {known:,}, as the run began.", flush=True)
        return
    if accelerator.distributed_type not in (DistributedType.NO, DistributedType.MULTI_CPU, *_OF_GPUS):
        raise ValueError(
            f"max_tokens=auto tries whole models, and {accelerator.distributed_type.value} splits them among the processes: give "
            f"a number"
        )
    start = time.monotonic()
    trial = Trial(accelerator, make_model(), data, transfer, run)
    if accelerator.device.type == "cpu":
        found = most_by_line(trial.peak_bytes, lambda: int(PROCESSOR_SHARE * free_bytes()), trial.longest_row)
    else:
        found = round(SHARE * most_that_fits(trial.fits, FIRST, int(MOST / SHARE)))
    trial.forget()
    found = min(gather_object([found]))
    if found < FIRST // 2:
        raise ValueError(
            f"max_tokens=auto: not even {FIRST} tokens fit into the memory of {accelerator.device} beside this model and its "
            f"optimizer; take a smaller model, gradient_checkpointing or precision=bf16"
        )
    run.max_tokens = found
    least = f", the least of {accelerator.num_processes} processes" if accelerator.num_processes > 1 else ""
    most = ", the most that is taken" if found == MOST else ""
    accelerator.print(
        f"max_tokens=auto: {found:,} tokens fit into the memory of {accelerator.device}{least}{most} "
        f"(found in {time.monotonic() - start:.0f} s).",
        flush=True,
    )


_OF_GPUS = (DistributedType.MULTI_GPU, DistributedType.MULTI_XPU, DistributedType.MULTI_NPU)


class Trial:
    """Updates of a model that nobody needs afterwards.

    Args:
        model: is moved to the device, and changed.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: PreTrainedModel,
        data: DataArguments,
        transfer: TransferArguments,
        run: RunArguments,
    ):
        self.accelerator, self.model = accelerator, model
        model.to(accelerator.device)  # pyright: ignore[reportArgumentType]  # transformers wraps it
        _, self.optimizer = ready_to_learn(model, transfer, run)
        positions = model.config.max_position_embeddings
        self.longest = [min(positions, data.max_source_length or positions)]
        if model.can_generate():
            self.longest.append(min(positions, data.max_target_length or positions))
        elif model.config.head_reads == "decoder":
            self.longest *= 2  # the text once more
        self.longest = [min(length, MOST // len(self.longest)) for length in self.longest]
        # Of the second batch of an update, the gradients of the first are still there.
        self.batches = min(2, run.accumulation_steps)
        learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        several = accelerator.num_processes > 1  # then gradients are copied into buckets, which are sent
        self.buckets = [torch.ones_like(parameter) for parameter in learning] if several else []

    @property
    def longest_row(self) -> int:
        """Tokens of a batch that has room for one row of the longest length."""
        return len(self.longest) * max(self.longest)

    def update(self, tokens: int) -> None:
        """One of only long rows, one of only short ones."""
        for most in (max(self.longest), SHORT):
            widths = [max(1, min(longest, most, tokens // len(self.longest))) for longest in self.longest]
            batch = batch_of(self.model, max(1, tokens // sum(widths)), widths)
            for _ in range(self.batches):
                moved = {name: tensor.to(self.accelerator.device) for name, tensor in batch.items()}
                with self.accelerator.autocast():
                    loss = self.model(**moved, num_items_in_batch=1).loss
                loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()

    def fits(self, tokens: int) -> bool:
        """Whether the memory of the device is enough."""
        self.model.train()
        try:
            self.update(tokens)
            return True
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        self.optimizer.zero_grad()
        free_memory()
        return False

    def peak_bytes(self, tokens: int) -> int:
        """Of all tensors that an update has at once, beside the weights and, from the second call on, Adam's numbers."""
        self.model.train()
        with LiveBytes() as live:
            self.update(tokens)
        return live.peak

    def forget(self) -> None:
        """Give all memory back."""
        del self.model, self.optimizer, self.buckets
        free_memory()


def batch_of(model: PreTrainedModel, rows: int, widths: Sequence[int]) -> Batch:
    """A batch of a model's task, `rows` x `widths` tokens: of the source, and of the target if it has one. Some padding makes
    the masks appear that real batches need.
    """
    width = widths[0]
    ids = torch.zeros(rows, width, dtype=torch.long)
    mask = torch.ones_like(ids)
    mask[0, 1:] = 0
    batch = {"input_ids": ids, "attention_mask": mask}
    if model.can_generate():
        targets = torch.zeros(rows, widths[1], dtype=torch.long)
        return batch | {"decoder_input_ids": targets, "labels": targets}
    if isinstance(model, VanillaTransformerForTokenClassification):
        return batch | {"labels": ids}
    if isinstance(model, VanillaTransformerForDependencyParsing):  # each token a word, but for one
        heads = ids[:, 1:]
        return batch | {"word_positions": torch.arange(width).expand(rows, -1), "labels": heads, "relations": heads}
    is_number = model.config.problem_type == "regression"
    return batch | {"labels": torch.zeros(rows, dtype=torch.float if is_number else torch.long)}


def most_that_fits(fits: Callable[[int], bool], first: int, most: int) -> int:
    """The largest number of tokens known to fit, within 5 % of one that does not, or `most`; 0 if `first` does not."""
    good, bad = 0, min(first, most)
    while fits(bad):
        good, bad = bad, min(2 * bad, most)
        if good == most:
            return good
    while good and bad > 1.05 * good:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


def most_by_line(peak: Callable[[int], int], free: Callable[[], int], longest_row: int) -> int:
    """How many tokens the free memory is enough for, at most MOST, by the line through the last two of some measured peaks.

    Args:
        peak: tokens -> bytes.
        free: bytes that may be used; asked when what stays has its place.
        longest_row: tokens of a row of the longest length; in smaller batches, rows are shorter.
    """
    straight = longest_row * math.ceil(FIRST / longest_row)  # from here on there are more rows, and no longer ones
    sizes = [straight, 2 * straight]
    while sizes[0] > FIRST:
        sizes.insert(0, sizes[0] // 2)
    peak(sizes[0])  # Adam's numbers get their place
    room = free()
    measured: list[int] = []
    for tokens in sizes:
        measured.append(peak(tokens))
        if 4 * measured[-1] > room:
            break
    last = len(measured) - 1
    if last == 0 or sizes[last] < straight:
        # No line yet: an attention matrix that is held whole grows with the square of the length.
        return math.floor(sizes[last] * math.sqrt(room / measured[last]))
    bytes_per_token = (measured[last] - measured[last - 1]) / (sizes[last] - sizes[last - 1])
    return min(MOST, sizes[last] + math.floor((room - measured[last]) / bytes_per_token))
