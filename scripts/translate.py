r"""`vanilla-transformer translate`: lines in, lines out, in order, any number of them.

    vanilla-transformer translate --model runs/multi30k --input test.en --output test.de
    echo "A man sleeps." | vanilla-transformer translate --model runs/multi30k

A line in gives a line out (`--n-best` of them if asked for), whatever it holds. Lines end at "\n" only. An empty line
gives an empty line. A line longer than the model allows is translated in pieces, and counted.

After an interruption the same command with --resume goes on; the file is then what it would have been.
"""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

from tqdm import tqdm

from vanilla_transformer.deployment.line_counts import LineCounts
from vanilla_transformer.deployment.line_input import InputFormat, lines_of, parsed
from vanilla_transformer.deployment.line_output import Format, LineOutput
from vanilla_transformer.deployment.model_fingerprint import model_fingerprint
from vanilla_transformer.deployment.resumption import ResumableOutput, StandardOutput
from vanilla_transformer.deployment.sentence_splitting import sentence_splitter
from vanilla_transformer.deployment.translated_lines import LineTranslator
from vanilla_transformer.scripts.command_line import command, parse_arguments
from vanilla_transformer.scripts.translation_flags import Decoding, Engine, Models, load_translator


@dataclass
class Lines:
    input: str = field(default="-", metadata={"help": "file of lines (also .gz), or - for standard input"})
    output: str = field(default="-", metadata={"help": "file to write, whole or not at all, or - for standard output"})
    resume: bool = field(
        default=False, metadata={"help": "go on where OUTPUT.partial stops, with the same flags and input"}
    )
    input_format: InputFormat = field(
        default="text",
        metadata={"help": "jsonl: objects with a `source`, and if wished `prefix`, `required` and `banned` phrases"},
    )
    format: Format = field(
        default="text",
        metadata={"help": "tsv (with a heading) and jsonl have line numbers, scores, and alignments if asked for"},
    )
    n_best: int = field(default=1, metadata={"help": "lines to write for each line read, best first; up to num-beams"})
    scores: bool = field(
        default=False,
        metadata={"help": "write before each line its log-probability and the same over the length penalty, with tabs"},
    )
    alignments: bool = field(
        default=False,
        metadata={
            "help": "with tsv and jsonl: which words were made from which, as 0-0 1-2 (source-target, words between blanks), by "
            "the cross-attention of the last layer but one"
        },
    )
    split_sentences: bool = field(
        default=False, metadata={"help": "translate sentence by sentence; the white space between them is kept"}
    )
    source_lang: str = field(default="en", metadata={"help": "language of the input, whose rules end a sentence"})
    mbr: int | None = field(
        default=None,
        metadata={
            "help": "draw so many outputs of each line, and take the one most like all others (minimum Bayes risk)"
        },
    )
    mbr_utility: Literal["chrf", "bleu"] = field(default="chrf", metadata={"help": "what alike means to --mbr"})
    chunk_lines: int | None = field(
        default=None,
        metadata={"help": "lines to read before they are translated; if not set 1024, or 1 where a person types them"},
    )

    def __post_init__(self) -> None:
        for name in ("n_best", "chunk_lines", "mbr"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if self.mbr is not None and self.n_best > self.mbr:
            raise ValueError(f"n_best={self.n_best} is more than mbr={self.mbr}: draw more, or lower n_best")
        if self.scores and self.format != "text":
            raise ValueError(f"--scores is for --format text; {self.format} always has them")
        if self.alignments and self.format == "text":
            raise ValueError("--alignments needs a place to stand: --format tsv or jsonl")
        if self.resume and self.output == "-":
            raise ValueError("--resume goes on with a file: name it with --output")


@command
def main(argv: list[str] | None = None) -> int:
    what = "Translates lines of text."
    models, engine, decoding, lines = parse_arguments("translate", what, Models, Engine, Decoding, Lines, argv=argv)
    decoding.check_sampling(decoding.sample or lines.mbr is not None)
    if lines.alignments and (engine.engine != "vanilla" or len(models.model) > 1):
        raise ValueError("--alignments needs one model and --engine vanilla: they are read from its cross-attention")
    output: Any = nullcontext(StandardOutput())
    if lines.output != "-":
        output = ResumableOutput(lines.output, _decides(models, engine, decoding, lines), lines.resume)
    translator = load_translator(models, engine)
    typed = lines.input == "-" and sys.stdin.isatty()
    work = LineTranslator(
        translator,
        decoding.options(),
        n_best=lines.n_best,
        samples=lines.mbr or 0,
        utility=lines.mbr_utility,
        align=lines.alignments,
        split=sentence_splitter(lines.source_lang) if lines.split_sentences else None,
    )
    format = LineOutput(lines.format, lines.scores, lines.mbr_utility if lines.mbr else None, lines.alignments)
    counts = LineCounts()
    with output as out, _bar(lines, typed, out.lines) as bar:
        texts = out.rest(lines_of(lines.input))
        number = out.lines
        if not number:
            out.write(format.heading())
        while chunk := list(islice(texts, lines.chunk_lines or (1 if typed else 1024))):
            for line in work.translate(
                [parsed(text, number + n, lines.input_format, lines.input) for n, text in enumerate(chunk, start=1)]
            ):
                counts.add_line(line)
                out.write(format.written(line))
                bar.update()
            number += len(chunk)
            out.save(len(chunk))
    print(counts.summary(translator), file=sys.stderr)
    return 0


def _decides(models: Models, engine: Engine, decoding: Decoding, lines: Lines) -> dict[str, Any]:
    """All flags that the bytes of the output hang on; models by what they are, not by where they lie."""
    flags = vars(models) | vars(engine) | vars(decoding) | vars(lines)
    for name in ("output", "input", "resume"):  # the input's lines are compared themselves
        del flags[name]
    flags["banned_words"] = decoding.options().get("banned")  # what is in the file
    return flags | {"model": [model_fingerprint(name) for name in models.model]}


def _bar(lines: Lines, typed: bool, done: int) -> tqdm:
    """On standard error, where a person looks at it and no translations run through the same terminal."""
    disable = True if typed or (lines.output == "-" and sys.stdout.isatty()) else None
    total = None
    if disable is None and sys.stderr.isatty() and os.path.isfile(lines.input) and not lines.input.endswith(".gz"):
        with open(lines.input, "rb") as file:
            total = sum(block.count(b"\n") for block in iter(lambda: file.read(2**20), b""))
    return tqdm(unit=" lines", disable=disable, initial=done, total=total)


if __name__ == "__main__":
    sys.exit(main())
