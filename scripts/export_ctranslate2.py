r"""`vanilla-transformer export-ctranslate2`: a trained model, made ready for CTranslate2, and proved to be the same model.

    vanilla-transformer export-ctranslate2 --model runs/en-de --output-dir runs/en-de-int8 --quantization int8 \
        --sample-file test.en
    vanilla-transformer translate --engine ctranslate2 --model runs/en-de-int8 --input test.en

An export that computes something else is refused, with exit code 2, and nothing is left of it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from itertools import islice

from vanilla_transformer.scripts.command_line import command, parse_arguments


@dataclass
class ExportArguments:
    model: str = field(metadata={"help": "folder of a trained model, or its name on the Hub"})
    output_dir: str = field(metadata={"help": "folder to write; it must be new or empty"})
    quantization: str = field(
        default="float32",
        metadata={
            "help": "precision of the weights: float32, float16, bfloat16, int16, int8, int8_float32, int8_float16 or "
            "int8_bfloat16 (what is not quantised is then in the second one)"
        },
    )
    sample_file: str | None = field(
        default=None,
        metadata={"help": "lines of source text (also .gz) to compare outputs on; random pieces if not given"},
    )
    sample_size: int = field(default=64, metadata={"help": "how many of these lines, from the first"})
    overwrite: bool = field(default=False, metadata={"help": "replace an export that is there already"})


@command
def main(argv: list[str] | None = None) -> int:
    what = "Converts a model for CTranslate2, and compares both."
    (arguments,) = parse_arguments("export-ctranslate2", what, ExportArguments, argv=argv)

    # Only now, because this takes seconds, and --help need not wait for it.
    from transformers.utils.logging import disable_progress_bar

    from vanilla_transformer.deployment.ctranslate2_equality import table
    from vanilla_transformer.deployment.ctranslate2_export import export
    from vanilla_transformer.training.corpus_files import read_lines

    disable_progress_bar()
    sample = None
    if arguments.sample_file is not None:
        # Empty lines are left out, so some more are read.
        sample = [line for _, line in islice(read_lines(arguments.sample_file), 10 * max(arguments.sample_size, 1))]
    results = export(
        arguments.model,
        arguments.output_dir,
        arguments.quantization,
        sample,
        arguments.sample_size,
        arguments.overwrite,
    )
    print(table(results))
    print(
        f"largest difference of ln P in float32: {results[0].largest:.2g} nats, allowed {results[0].largest_limit:.2g} "
        f"({results[0].tokens:,} tokens)"
    )
    print(f"the {arguments.quantization} export is in {arguments.output_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
