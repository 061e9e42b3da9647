"""Pretrain a model on raw text by denoising: it sees a text with holes and learns to write the whole of it."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from vanilla_transformer.scripts.command_line import command, parse_arguments


@dataclass
class NoiseArguments:
    """The holes (BART, Lewis et al. 2020, section 2.2: text infilling)."""

    mask_share: float = field(default=0.3, metadata={"help": "share of the tokens that is masked; BART: 0.3"})
    poisson_lambda: float = field(default=3.0, metadata={"help": "mean length of a hole, in tokens; BART: 3"})


@command
def main(argv: list[str] | None = None) -> int:
    from vanilla_transformer.training.arguments import DataArguments, ModelArguments, RunArguments

    arguments = parse_arguments(
        "pretrain", __doc__ or "", NoiseArguments, ModelArguments, DataArguments, RunArguments, argv=argv
    )
    noise, model_arguments, data_arguments, run_arguments = arguments

    from vanilla_transformer.training.denoising import DenoisingTask
    from vanilla_transformer.training.loop import Training, make_accelerator
    from vanilla_transformer.training.noising import TextInfilling
    from vanilla_transformer.training.starting_model import load_tokenizer, starting_model

    accelerator = make_accelerator(run_arguments)
    tokenizer = load_tokenizer(model_arguments)
    if tokenizer.mask_token_id is None:
        raise ValueError("the tokenizer has no mask token, so there is nothing to put into the holes")
    infilling = TextInfilling(int(tokenizer.mask_token_id), noise.mask_share, noise.poisson_lambda)
    model = starting_model(model_arguments, tokenizer, run_arguments.seed, run_arguments.attention)
    task = DenoisingTask(data_arguments, tokenizer, model, run_arguments, infilling)
    Training(accelerator, model, tokenizer, task, run_arguments, list(arguments)).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
