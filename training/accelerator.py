"""Accelerate's view of a process: devices, how many processes there are, precision, trackers."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Any

import datasets
import torch
import transformers
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import InitProcessGroupKwargs

from vanilla_transformer.modeling.freed_memory import keep_freed_memory
from vanilla_transformer.training.arguments import RunArguments
from vanilla_transformer.training.sharding import refuse_what_cannot_be_sharded


def time_limit(run: RunArguments) -> timedelta:
    """How long a process waits for the others, whatever they do meanwhile, before it takes them for hung."""
    return timedelta(minutes=run.process_timeout)


def make_accelerator(run: RunArguments) -> Accelerator:
    """Accelerate's view of this process: devices, number of processes (`accelerate launch`), precision, trackers.

    Raises:
        ValueError: a tracker is unknown or not installed; or the precision, or FSDP, needs GPUs that are not here.
    """
    # Bars for saving ten megabytes, and bars in a log file, are noise around the one bar that matters.
    transformers.utils.logging.disable_progress_bar()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    # Accelerate would leave out what is not installed.
    available = [str(tracker) for tracker in get_available_trackers()]
    for name in run.track_with:
        if name != "all" and name not in available:
            raise ValueError(
                f"track_with={name}: no such tracker is installed; there are: {', '.join(available) or 'none'}"
            )
    accelerator = Accelerator(
        mixed_precision="no" if run.precision == "fp32" else run.precision,
        log_with=list[Any](run.track_with) or None,
        project_dir=run.output_dir,
        # The schedule counts updates, whatever the number of processes.
        step_scheduler_with_optimizer=False,
        # Left to itself, Accelerate takes each of several processes without a GPU for the only one.
        cpu=not torch.accelerator.is_available(),
        # The backends' own limits differ (gloo's is 30 minutes, NCCL's 10), and an evaluation may take longer than the latter.
        kwargs_handlers=[InitProcessGroupKwargs(timeout=time_limit(run))],
    )
    refuse_what_cannot_be_sharded(accelerator)
    if run.precision == "fp16" and accelerator.device.type == "cpu":  # Accelerate would compute in fp32 instead
        raise ValueError("precision=fp16 needs a GPU; on a processor take fp32 or bf16")
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    return accelerator
