r"""`vanilla-transformer back-translate`: text of the target language alone becomes pairs to train on.

    vanilla-transformer back-translate --model runs/de-en --input mono.de --output back.jsonl \
        --source-lang en --target-lang de
    vanilla-transformer finetune --source-lang en --target-lang de --train-file back.jsonl real.jsonl --train-weights 1 4 ...

The model translates the other way round: from the target language into the source language. The target side of each pair is
a text that somebody wrote; the source side is the model's, behind a tag that says so:

    {"translation": {"en": "<BT> Two dogs run.", "de": "Zwei Hunde rennen."}}

Sennrich, Haddow and Birch (2016), "Improving Neural Machine Translation Models with Monolingual Data"; the tag: Caswell,
Chelba and Grangier (2019), "Tagged Back-Translation"; drawn sources instead of the best: Edunov et al. (2018),
"Understanding Back-Translation at Scale", who find them better where there is much data, and worse where there is little.

After an interruption the same command with --resume goes on; what it writes is what it would have written.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

import torch
from tqdm import tqdm
from transformers import AutoTokenizer

from vanilla_transformer.modeling import Translation, Translator
from vanilla_transformer.scripts.command_line import command, parse_arguments
from vanilla_transformer.scripts.partial_pairs import Work
from vanilla_transformer.scripts.translation_flags import Model, load_translator
from vanilla_transformer.training.corpus import CorpusError, iterate_texts
from vanilla_transformer.training.corpus_files import ROW_FORMATS, file_format, read_rows
from vanilla_transformer.training.starting_model import load_from

FILTERS = ("empty texts", "empty outputs", "outputs cut at their bound", "copies of the text")


@dataclass
class Pairs:
    input: list[str] = field(
        metadata={
            "help": "text of the target language: files of lines, or JSON Lines, CSV, Parquet with `text`; also .gz"
        }
    )
    output: str = field(
        metadata={"help": "JSON Lines file of pairs to write; what is done so far is in OUTPUT.partial"}
    )
    source_lang: str = field(metadata={"help": "language that the model writes, and later the source, for example en"})
    target_lang: str = field(metadata={"help": "language of the text, for example de"})
    text_fields: list[str] = field(
        default_factory=list,
        metadata={"help": "fields to read of each row; if not set: text, or the target language's part of translation"},
    )
    tag: str = field(
        default="<BT>",
        metadata={
            "help": "stands before each source: a token of its own (train-tokenizer --extra-tokens '<BT>'); '' for none"
        },
    )
    tokenizer: str | None = field(
        default=None,
        metadata={"help": "that of the model which will learn from the pairs; if not set, this model's own"},
    )
    resume: bool = field(default=False, metadata={"help": "go on where OUTPUT.partial stops, with the same flags"})


@dataclass
class Writing:
    language_tag: bool = field(
        default=False,
        metadata={
            "help": "put the tag of the source language (>>en<<) before each text, for a model of several languages"
        },
    )
    num_beams: int | None = field(
        default=None, metadata={"help": "width of the beam; 1 is greedy search, and several times faster; if not set 4"}
    )
    sampling: bool = field(default=False, metadata={"help": "draw each source from the model's distribution; no beam"})
    seed: int = field(default=1, metadata={"help": "of the drawing"})
    max_tokens: int = field(default=4096, metadata={"help": "tokens of text in a batch, padding counted"})
    chunk_texts: int = field(default=1024, metadata={"help": "texts between two moments at which the work is saved"})

    def __post_init__(self):
        if self.chunk_texts < 1:
            raise ValueError(f"chunk_texts={self.chunk_texts} must be at least 1")
        if self.sampling and self.num_beams is not None:
            raise ValueError(
                f"num_beams={self.num_beams} and sampling are two ways to write a source: give one of them"
            )


@command
def main(argv: list[str] | None = None) -> int:
    what = "Makes pairs from text of the target language, with a model that translates the other way round."
    model, pairs, writing = parse_arguments("back-translate", what, Model, Pairs, Writing, argv=argv)
    work = Work(pairs.output, {**vars(model), **vars(pairs), **vars(writing)}, pairs.resume)
    translator = load_translator(model)
    _check_tag(pairs, translator)
    with work as out:
        texts = texts_of(pairs.input, pairs.text_fields, pairs.target_lang)
        skipped = sum(1 for _ in islice(texts, work.done.texts))
        if skipped < work.done.texts:
            raise CorpusError(
                f"--input holds {skipped:,} texts, but {work.done.texts:,} of it are translated: it has changed"
            )
        bar = tqdm(unit=" texts", initial=skipped, disable=None)
        while chunk := list(islice(texts, writing.chunk_texts)):
            made = _translate(translator, chunk, pairs, writing, first=work.done.texts)
            for text, translation in zip(chunk, made, strict=True):
                reason = reason_to_drop(text, translation)
                if reason is not None:
                    work.done.dropped[reason] = work.done.dropped.get(reason, 0) + 1
                    continue
                source = f"{pairs.tag} {translation.text}" if pairs.tag else translation.text
                row = {"translation": {pairs.source_lang: source, pairs.target_lang: text}}
                out.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
                work.done.pairs += 1
            work.done.texts += len(chunk)
            work.save()
            bar.update(len(chunk))
        bar.close()
        if not work.done.pairs:
            raise CorpusError(f"no pair is left: {work.done}")
    print(f"{pairs.output}: {work.done}", file=sys.stderr)
    return 0


def texts_of(files: list[str], fields: list[str], language: str) -> Iterator[str]:
    """The texts of files of any form; of rows of pairs, those in the language."""
    for path in files:
        kind = file_format(path)
        first = next(read_rows(path), None) if kind in ROW_FORMATS and not fields else None
        if first is None or "translation" not in first[1]:
            yield from iterate_texts([path], fields=fields)
            continue
        for number, row in read_rows(path):
            texts = row.get("translation")
            text = texts.get(language) if isinstance(texts, dict) else None
            if not isinstance(text, str):
                found = ", ".join(texts) if isinstance(texts, dict) else ", ".join(row)
                raise CorpusError(
                    f"{path}:{number}: no text `{language}` in its `translation`; found: {found or 'nothing'}"
                )
            yield text


def reason_to_drop(text: str, translation: Translation) -> str | None:
    """Which of `FILTERS` a pair does not pass, or None. A copy teaches to leave text as it is."""
    written = translation.text.strip()
    empty, no_output, cut, copy = FILTERS
    if not text.strip():
        return empty
    if translation.cut:
        return cut
    if not written:
        return no_output
    return copy if written == text.strip() else None


def _translate(
    translator: Translator, texts: list[str], pairs: Pairs, writing: Writing, first: int
) -> list[Translation]:
    # Seeded by position, so that an interrupted run draws what it would have drawn.
    torch.manual_seed(writing.seed + first)
    return translator.translate(
        texts,
        target_lang=pairs.source_lang if writing.language_tag else None,
        num_beams=writing.num_beams,
        do_sample=writing.sampling,
        max_tokens=writing.max_tokens,
        split_long=True,
    )


def _check_tag(pairs: Pairs, translator: Translator) -> None:
    if not pairs.tag:
        return
    tokenizer = (
        translator.tokenizer if pairs.tokenizer is None else load_from(AutoTokenizer, pairs.tokenizer, "tokenizer")
    )
    if pairs.tag not in tokenizer.get_added_vocab():
        whose = f"tokenizer {pairs.tokenizer}" if pairs.tokenizer else "this model's tokenizer"
        raise ValueError(
            f"tag {pairs.tag} is no token of {whose}, and would be cut into pieces: learn the vocabulary with "
            f"--extra-tokens '{pairs.tag}', name the tokenizer that has it with --tokenizer, or leave the tag out with --tag ''"
        )


if __name__ == "__main__":
    sys.exit(main())
