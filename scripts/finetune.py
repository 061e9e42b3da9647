"""Train a model on a task: from a pretrained one (--model), or from scratch (--preset and --tokenizer)."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Literal

from vanilla_transformer.scripts.command_line import command, parse_arguments


@dataclass
class TaskArguments:
    """What is learned."""

    task: Literal["translation"] = field(default="translation", metadata={"help": "what the model learns"})


@command
def main(argv: list[str] | None = None) -> int:
    from vanilla_transformer.training.arguments import DataArguments, ModelArguments, RunArguments

    arguments = parse_arguments(
        "finetune", __doc__ or "", TaskArguments, ModelArguments, DataArguments, RunArguments, argv=argv
    )
    _, model_arguments, data_arguments, run_arguments = arguments

    from vanilla_transformer.training.loop import Training, make_accelerator
    from vanilla_transformer.training.starting_model import load_tokenizer, starting_model
    from vanilla_transformer.training.translation import TranslationTask

    accelerator = make_accelerator(run_arguments)
    tokenizer = load_tokenizer(model_arguments)
    model = starting_model(model_arguments, tokenizer, run_arguments.seed, run_arguments.attention)
    task = TranslationTask(data_arguments, tokenizer, model, run_arguments)
    Training(accelerator, model, tokenizer, task, run_arguments, list(arguments)).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
