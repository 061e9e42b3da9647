"""Average the weights of a run's last checkpoints, or of any models of one shape, into a new model (section 6.1)."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from vanilla_transformer.scripts.command_line import command, parse_arguments


@dataclass
class AverageArguments:
    """Which models, and where to."""

    model: list[str] = field(
        metadata={"help": "the folder of a run, whose newest checkpoints are taken, or the folders of several models"}
    )
    output_dir: str = field(metadata={"help": "folder of the averaged model; it must not exist"})
    last: int = field(default=5, metadata={"help": "how many of a run's checkpoints; the paper: 5 (base), 20 (big)"})


@command
def main(argv: list[str] | None = None) -> int:
    (arguments,) = parse_arguments("average-checkpoints", __doc__ or "", AverageArguments, argv=argv)

    from transformers import AutoTokenizer

    from vanilla_transformer.training.checkpoints import average_weights, complete_checkpoints
    from vanilla_transformer.training.prediction import task_of
    from vanilla_transformer.training.starting_model import load_from

    if arguments.last < 1:
        raise ValueError(f"last={arguments.last} must be at least 1")
    folders = [Path(folder) for folder in arguments.model]
    if len(folders) == 1:
        run = folders[0]
        folders = complete_checkpoints(run / "checkpoints")[-arguments.last :]
        if len(folders) < arguments.last:
            raise ValueError(f"{run} holds {len(folders)} checkpoints, fewer than --last {arguments.last}")
    if Path(arguments.output_dir).exists():
        raise ValueError(f"output_dir {arguments.output_dir} exists already; give another folder")

    newest = str(folders[-1])
    model = load_from(task_of(newest)[1], newest, "model")
    model.load_state_dict(average_weights(folders), strict=False)
    model.save_pretrained(arguments.output_dir)
    load_from(AutoTokenizer, newest, "tokenizer").save_pretrained(arguments.output_dir)
    print(f"Average of {len(folders)} models in {arguments.output_dir}: {', '.join(folder.name for folder in folders)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
