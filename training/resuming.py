"""A run goes on: with the rows that it began with, and as many batches an update, over the processes that there are now."""

from __future__ import annotations

from collections.abc import Callable

from vanilla_transformer.training.arguments import RunArguments
from vanilla_transformer.training.checkpoints import Progress


def continued(before: Progress, now: Progress, run: RunArguments, say: Callable[[str], None]) -> Progress:
    """Where a run stands that goes on from a checkpoint.

    Args:
        before: what the checkpoint says. It is what is returned, with the processes and the rows of now.
        now: the same run, begun here.
        run: its flags; with `override`, other rows and other batches an update are accepted.
        say: prints a line about what is not as it was.

    Raises:
        ValueError: other rows, or batches of an update that the processes cannot share alike.
    """
    _share_batches(before, now.processes, run, say)
    if before.corpus and before.corpus != now.corpus:
        changed = "the training rows are not those that the run began with (files, vocabulary or limits have changed)"
        if not run.override:
            raise ValueError(f"--resume: {changed}; give the same, or --override to accept")
        say(f"Resuming, but {changed}.")
    before.corpus = now.corpus
    return before


def _share_batches(before: Progress, processes: int, run: RunArguments, say: Callable[[str], None]) -> None:
    given = accumulated = run.accumulation_steps
    had = before.batches_per_update or before.processes * given
    wants_others = run.override and given != (before.accumulation_steps or given)
    if processes * given != had and not wants_others:
        if had % processes:
            raise ValueError(
                f"--resume: an update had {had} batches, which {processes} processes cannot share alike; take a number of "
                f"processes that divides {had}, or --override with other accumulation_steps"
            )
        accumulated = had // processes
    now = processes * accumulated
    if (before.processes, had) != (processes, now):
        told = "as many tokens as before" if now == had else f"{now} batches instead of {had}"
        say(
            f"Resuming with {processes} x {accumulated} batches an update (processes x accumulated) instead of "
            f"{before.processes} x {had // before.processes}: {told}."
        )
    before.batches = before.batches * before.processes // processes
    before.processes, before.batches_per_update, before.accumulation_steps = processes, now, given
