"""Train a model on a task: from a pretrained one (--model), or from scratch (--preset and --tokenizer)."""

from __future__ import annotations

import sys

from vanilla_transformer.scripts.command_line import command, parse_arguments


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
    arguments = parse_arguments("finetune", __doc__ or "", *parts, argv=argv)
    what, model_arguments, data, _, run = arguments

    from vanilla_transformer.training.accelerator import make_accelerator
    from vanilla_transformer.training.finetuning import model_and_task
    from vanilla_transformer.training.loop import Training
    from vanilla_transformer.training.starting_model import load_tokenizer

    accelerator = make_accelerator(run)
    tokenizer = load_tokenizer(model_arguments)
    model, task = model_and_task(what, model_arguments, data, run, tokenizer)
    Training(accelerator, model, tokenizer, task, run, list(arguments)).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
