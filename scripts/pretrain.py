"""Pretrain a model on raw text by denoising: it sees a text with holes and learns to write the whole of it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from vanilla_transformer.scripts.command_line import command, parse_arguments

if TYPE_CHECKING:
    from vanilla_transformer.training.loop import Training


def prepare(arguments: list[Any]) -> Training:
    """The run that these dataclasses of flags describe, in the order of `main`; `.run()` trains."""
    from vanilla_transformer.training.accelerator import make_accelerator
    from vanilla_transformer.training.denoising import DenoisingTask
    from vanilla_transformer.training.loop import Training
    from vanilla_transformer.training.objectives import make_noise
    from vanilla_transformer.training.starting_model import load_tokenizer, starting_model

    settle_max_tokens(arguments)
    noise_arguments, model_arguments, data_arguments, run = arguments
    accelerator = make_accelerator(run)
    tokenizer = load_tokenizer(model_arguments)
    noise = make_noise(noise_arguments, tokenizer)
    model = starting_model(model_arguments, tokenizer, run.seed, run.attention)
    task = DenoisingTask(data_arguments, tokenizer, model, run, noise, noise_arguments.documents)
    return Training(accelerator, model, tokenizer, task, run, arguments)


def settle_max_tokens(arguments: list[Any]) -> None:
    """`max_tokens=auto` -> a number, in the same dataclasses."""
    from vanilla_transformer.training import memory_fit
    from vanilla_transformer.training.starting_model import load_tokenizer, starting_model

    _, model_arguments, _, run = arguments

    def make_model() -> Any:
        return starting_model(model_arguments, load_tokenizer(model_arguments), run.seed, run.attention)

    memory_fit.settle_max_tokens(arguments, make_model)


@command
def main(argv: list[str] | None = None) -> int:
    from vanilla_transformer.training.arguments import (
        DataArguments,
        ModelArguments,
        RunArguments,
        refuse_flags_of_others,
    )
    from vanilla_transformer.training.objectives import FINETUNING_FLAGS, NoiseArguments

    parts = (NoiseArguments, ModelArguments, DataArguments, RunArguments)
    arguments = list(parse_arguments("pretrain", __doc__ or "", *parts, argv=argv))
    refuse_flags_of_others({"finetune": FINETUNING_FLAGS}, ["pretrain"], arguments, "this is pretrain")
    if arguments[-1].seeds == 1:
        prepare(arguments).run()
        return 0

    from vanilla_transformer.training.repeated_seeds import repeat_with_seeds

    settle_max_tokens(arguments)  # once, so that all seeds have the same
    repeat_with_seeds(prepare, arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
