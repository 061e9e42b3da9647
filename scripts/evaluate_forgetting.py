r"""`vanilla-transformer evaluate-forgetting`: what fine-tuning has cost, in the scores of the task before.

    vanilla-transformer evaluate-forgetting --before runs/general --after runs/domain --test-file general.jsonl

`--before` is the model that was continued, `--after` what became of it; the file is of the old task. Where the new task has
another head, or one of which the names of the classes do not tell that it is the same, the new body is scored with the old head.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field

from datasets import disable_progress_bars
from transformers import AutoTokenizer
from transformers.utils import logging

from vanilla_transformer.scripts.command_line import command, parse_arguments


@dataclass
class Comparison:
    before: str = field(metadata={"help": "folder of the model that was fine-tuned"})
    after: str = field(metadata={"help": "folder of the model that came of it"})
    test_file: list[str] = field(metadata={"help": "data of the task that --before was trained for"})
    num_beams: int = field(default=1, metadata={"help": "for tasks whose output is text; 1 is greedy search"})
    json: bool = field(default=False, metadata={"help": "one JSON object on standard output, nothing else"})


@command
def main(argv: list[str] | None = None) -> int:
    (given,) = parse_arguments("evaluate-forgetting", "The old task's scores before and after.", Comparison, argv=argv)

    from vanilla_transformer.training.accelerator import make_accelerator
    from vanilla_transformer.training.arguments import RunArguments
    from vanilla_transformer.training.forgetting import forgetting
    from vanilla_transformer.training.prediction import task_of
    from vanilla_transformer.training.starting_model import load_from

    disable_progress_bars()
    logging.disable_progress_bar()
    accelerator = make_accelerator(RunArguments())
    _, kind, flags = task_of(given.before)
    tokenizer = load_from(AutoTokenizer, given.before, "tokenizer")
    found = forgetting(
        accelerator, given.before, given.after, tokenizer, flags, kind, given.test_file, given.num_beams
    )
    if given.json:
        print(json.dumps(found))
        return 0
    print(f"{'':<14}{'before':>12}{'after':>12}{'difference':>12}")
    for name, value in found["before"].items():
        print(f"{name:<14}{value:>12}{found['after'][name]:>12}{found['difference'][name]:>+12}")
    if found["kept"]:
        print(
            f"(of --before, because --after has none, or one that may be of another task: {', '.join(found['kept'])})"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
