"""Pretrain a model on raw text by denoising: it sees a text with holes and learns to write the whole of it."""

from __future__ import annotations

import sys

from vanilla_transformer.scripts.command_line import command, parse_arguments


@command
def main(argv: list[str] | None = None) -> int:
    from vanilla_transformer.training.arguments import DataArguments, ModelArguments, RunArguments
    from vanilla_transformer.training.objectives import NoiseArguments, make_noise

    arguments = parse_arguments(
        "pretrain", __doc__ or "", NoiseArguments, ModelArguments, DataArguments, RunArguments, argv=argv
    )
    noise_arguments, model_arguments, data_arguments, run_arguments = arguments

    from vanilla_transformer.training.accelerator import make_accelerator
    from vanilla_transformer.training.denoising import DenoisingTask
    from vanilla_transformer.training.loop import Training
    from vanilla_transformer.training.starting_model import load_tokenizer, starting_model

    accelerator = make_accelerator(run_arguments)
    tokenizer = load_tokenizer(model_arguments)
    noise = make_noise(noise_arguments, tokenizer)
    model = starting_model(model_arguments, tokenizer, run_arguments.seed, run_arguments.attention)
    task = DenoisingTask(data_arguments, tokenizer, model, run_arguments, noise, noise_arguments.documents)
    Training(accelerator, model, tokenizer, task, run_arguments, list(arguments)).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
