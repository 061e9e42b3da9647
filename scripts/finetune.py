"""Train a model on a task: from a pretrained one (--model), or from scratch (--preset and --tokenizer)."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from vanilla_transformer.scripts.command_line import command, parse_arguments

if TYPE_CHECKING:
    from vanilla_transformer.training.loop import Training


def prepare(arguments: list[Any]) -> Training:
    """The run that these dataclasses of flags describe, in the order of `main`; `.run()` trains."""
    from vanilla_transformer.training.accelerator import make_accelerator
    from vanilla_transformer.training.finetuning import model_and_task
    from vanilla_transformer.training.loop import Training
    from vanilla_transformer.training.starting_model import load_tokenizer

    settle_max_tokens(arguments)
    what, model_arguments, data, _, run = arguments
    accelerator = make_accelerator(run)
    tokenizer = load_tokenizer(model_arguments)
    model, task = model_and_task(what, model_arguments, data, run, tokenizer)
    return Training(accelerator, model, tokenizer, task, run, arguments)


def settle_max_tokens(arguments: list[Any]) -> None:
    """`max_tokens=auto` -> a number, in the same dataclasses."""
    from vanilla_transformer.training import memory_fit
    from vanilla_transformer.training.finetuning import labelling_of_data, load_rows, refuse_flags_of_other_tasks
    from vanilla_transformer.training.starting_model import load_tokenizer, starting_model

    what, model_arguments, data, _, run = arguments

    def make_model() -> Any:
        refuse_flags_of_other_tasks(what, model_arguments, data, run)
        tokenizer = load_tokenizer(model_arguments)
        kind: dict[str, Any] = {}
        rows = None if what.task in ("translation", "dialogue") else load_rows(what, data, "train")
        if rows is not None:  # the classes decide the shape of the head
            labelling = labelling_of_data(what, rows, tokenizer)
            kind = {"kind": labelling.model_class, "head": labelling.head()}
        return starting_model(model_arguments, tokenizer, run.seed, run.attention, **kind)

    memory_fit.settle_max_tokens(arguments, make_model)


@command
def main(argv: list[str] | None = None) -> int:
    from vanilla_transformer.training.arguments import (
        DataArguments,
        ModelArguments,
        RunArguments,
        TaskArguments,
        TransferArguments,
    )

    parts = (TaskArguments, ModelArguments, DataArguments, TransferArguments, RunArguments)
    arguments = list(parse_arguments("finetune", __doc__ or "", *parts, argv=argv))
    if arguments[-1].seeds == 1:
        prepare(arguments).run()
        return 0

    from vanilla_transformer.training.repeated_seeds import repeat_with_seeds

    settle_max_tokens(arguments)  # once, so that all seeds have the same
    repeat_with_seeds(prepare, arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
