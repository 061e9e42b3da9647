r"""`vanilla-transformer translate`: lines in, lines out, in order, any number of them.

    vanilla-transformer translate --model runs/multi30k --input test.en --output test.de
    echo "A man sleeps." | vanilla-transformer translate --model runs/multi30k

A line in gives a line out (`--n-best` of them if asked for), whatever it holds. Lines end at "\n" only. An empty line
gives an empty line. A line longer than the model allows is translated in pieces, and counted.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TextIO

from tqdm import tqdm
from transformers.utils import logging

from vanilla_transformer.modeling import Translation, Translator
from vanilla_transformer.scripts.command_line import command, parse_arguments
from vanilla_transformer.training.corpus_files import CorpusError, read_lines


@dataclass
class Model:
    model: str = field(metadata={"help": "folder of a trained model, or its name on the Hub"})
    device: str | None = field(
        default=None, metadata={"help": "cpu, cuda, cuda:1, mps ...; if not set, an accelerator where there is one"}
    )


@dataclass
class Decoding:
    target_lang: str | None = field(
        default=None, metadata={"help": "language to translate into, where the model was trained for several (its tag)"}
    )
    num_beams: int = field(default=4, metadata={"help": "width of the beam; 1 is greedy search"})
    length_penalty: float = field(default=0.6, metadata={"help": "alpha; a larger one gives longer outputs; 0 is none"})
    length_penalty_kind: Literal["paper", "hf"] = field(
        default="paper", metadata={"help": "a log-probability is divided by ((5+n)/6)^alpha (paper) or by n^alpha (hf)"}
    )
    max_tokens: int = field(default=4096, metadata={"help": "source tokens in a batch, padding counted"})


@dataclass
class Lines:
    input: str = field(default="-", metadata={"help": "file of lines (also .gz), or - for standard input"})
    output: str = field(default="-", metadata={"help": "file to write, whole or not at all, or - for standard output"})
    n_best: int = field(default=1, metadata={"help": "lines to write for each line read, best first; up to num-beams"})
    scores: bool = field(
        default=False,
        metadata={"help": "write before each line its log-probability and the same over the length penalty, with tabs"},
    )
    chunk_lines: int | None = field(
        default=None,
        metadata={"help": "lines to read before they are translated; if not set 1024, or 1 where a person types them"},
    )


@command
def main(argv: list[str] | None = None) -> int:
    what = "Translates lines of text."
    model, decoding, lines = parse_arguments("translate", what, Model, Decoding, Lines, argv=argv)
    translator = load_translator(model)
    counts = Counts()
    typed = lines.input == "-" and sys.stdin.isatty()
    translations = translator.stream(
        lines_of(lines.input),
        **vars(decoding),
        n_best=lines.n_best,
        chunk_size=lines.chunk_lines if lines.chunk_lines is not None else 1 if typed else 1024,
        split_long=True,
    )
    with written_whole(lines.output) as out:
        for translation in tqdm(translations, unit=" lines", disable=None if lines.output != "-" else True):
            counts.add(translation)
            for candidate in translation.n_best:
                scores = f"{candidate.score:.4f}\t{candidate.normalized_score:.4f}\t" if lines.scores else ""
                out.write(f"{scores}{one_line(candidate.text)}\n")
            if typed:
                out.flush()
    print(counts.summary(translator), file=sys.stderr)
    return 0


def load_translator(model: Model) -> Translator:
    """The model, ready to use. ValueError in one line if there is none."""
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    return Translator.from_pretrained(model.model, device=model.device)


def one_line(text: str) -> str:
    """`text` without the line ends that it may hold: a line in must give a line out."""
    return re.sub(r"[\r\n]+", " ", text)


def lines_of(name: str) -> Iterator[str]:
    """The lines of a file or of standard input ("-"), one at a time. CorpusError, with the line, if it is no UTF-8."""
    if name != "-":
        for _, line in read_lines(name):
            yield line
        return
    for number, raw in enumerate(sys.stdin.buffer, start=1):
        try:
            yield raw.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError as error:
            raise CorpusError(f"standard input, line {number}: invalid UTF-8 (byte 0x{raw[error.start]:02X})") from None


@contextmanager
def written_whole(name: str) -> Iterator[TextIO]:
    """A file that appears under its name when everything is in it, or standard output ("-").

    What was written before a failure stays in NAME.partial.
    """
    if name == "-":
        sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]  # whatever the locale says
        yield sys.stdout
        return
    path = Path(name).resolve()  # a link stays a link
    if path.is_dir():
        raise ValueError(f"{name}: is a folder; give the name of a file")
    partial = path if path.exists() and not path.is_file() else path.with_name(f"{path.name}.partial")
    with open(partial, "w", encoding="utf-8", newline="\n") as out:
        try:
            yield out
        except BaseException:
            out.flush()
            if partial != path:
                if os.path.getsize(partial):
                    print(f"the lines finished so far are in {partial}", file=sys.stderr)
                else:
                    partial.unlink()
            raise
    if partial != path:
        os.replace(partial, path)


class Counts:
    """What became of the lines, for the last word on stderr."""

    def __init__(self) -> None:
        self.lines = self.cut = self.split = 0
        self.start = time.monotonic()

    def add(self, translation: Translation) -> None:
        self.lines += 1
        self.cut += translation.cut
        self.split += translation.pieces > 1

    def over(self, translations: Iterable[Translation]) -> Iterator[Translation]:
        for translation in translations:
            self.add(translation)
            yield translation

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.start

    def summary(self, translator: Translator) -> str:
        limit = translator.model.config.max_position_embeddings
        parts = [f"{self.lines:,} lines in {self.seconds:.1f} s ({self.lines / max(self.seconds, 1e-9):.1f} lines/s)"]
        if self.cut:
            parts.append(f"{self.cut:,} outputs cut at their bound (source tokens + 50, or the model's limit)")
        if self.split:
            parts.append(f"{self.split:,} lines longer than the model's {limit:,} tokens, translated in pieces")
        return "; ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
