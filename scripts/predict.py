r"""`vanilla-transformer predict`: what a model says about new data, in the form of its task.

    vanilla-transformer predict --model runs/sst2 --input reviews.jsonl --output labelled.jsonl
    vanilla-transformer predict --model runs/parser --input raw.conllu --output parsed.conllu

    the model was trained for    reads                                      writes
    sequence-classification      rows with text(s), or lines of text        JSON Lines: label, scores of all classes
    token-classification         rows with tokens                           JSON Lines with tags; .conll: TOKEN tab TAG
    dependency-parsing           CoNLL-U, or rows with tokens               CoNLL-U; .jsonl: head, deprel
    dialogue                     rows with the turns so far                 a line each: the reply
    translation                  lines, or rows with the source language    a line each

A row in gives an answer out, in order, whatever the row holds. Rows that have labels already are scored on the way, in per cent.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset, disable_progress_bars
from tqdm import tqdm
from transformers import AutoTokenizer
from transformers.utils import logging

from vanilla_transformer.modeling import Translator
from vanilla_transformer.scripts.command_line import command, parse_arguments
from vanilla_transformer.scripts.translate import Model, one_line, written_whole
from vanilla_transformer.training.conllu_files import block_of, with_tree
from vanilla_transformer.training.corpus import load_pairs, load_texts
from vanilla_transformer.training.corpus_files import ROW_FORMATS, file_format
from vanilla_transformer.training.dialogue import history
from vanilla_transformer.training.dialogues import load_dialogues
from vanilla_transformer.training.finetuning import with_class_numbers
from vanilla_transformer.training.labelled_rows import load_classification, load_parsing, load_tagging
from vanilla_transformer.training.labelling import Labelling
from vanilla_transformer.training.prediction import labelling_of, predict, task_of
from vanilla_transformer.training.rescoring import device
from vanilla_transformer.training.starting_model import load_from


@dataclass
class Rows:
    input: list[str] = field(metadata={"help": "files of rows, or of lines"})
    output: str = field(default="-", metadata={"help": "file to write, whole or not at all, or - for standard output"})
    text_fields: list[str] = field(default_factory=list, metadata={"help": "the field of the text, or of both texts"})
    label_field: str = field(default="label", metadata={"help": "the field of the label, where rows have one"})
    token_field: str = field(default="tokens", metadata={"help": "the field of the words or characters"})
    tag_field: str | None = field(default=None, metadata={"help": "the field of the tags, where rows have them"})
    dialog_field: str = field(default="dialog", metadata={"help": "the field of the turns"})
    target_lang: str | None = field(default=None, metadata={"help": "translation: where the model knows several"})
    num_beams: int = field(default=4, metadata={"help": "translation and dialogue: width of the beam; 1 is greedy search"})
    max_tokens: int = field(default=4096, metadata={"help": "tokens in a batch, padding counted"})


@command
def main(argv: list[str] | None = None) -> int:
    model, rows = parse_arguments("predict", "What a model says about new data.", Model, Rows, argv=argv)
    if not sys.stderr.isatty():
        disable_progress_bars()
        logging.disable_progress_bar()
    task, kind, flags = task_of(model.model)
    if task in ("translation", "dialogue"):
        return write_texts(task, model, rows, flags)
    net = load_from(kind, model.model, "model").to(model.device or device())
    tokenizer = load_from(AutoTokenizer, model.model, "tokenizer")
    tokenizer.check_fits(net.config)
    labelling = labelling_of(net, tokenizer)
    given, labels = labelled_rows(task, labelling, rows)
    answers = predict(net, labelling, given, max_tokens=rows.max_tokens)
    to_score: list[Any] = []
    write = {"token-classification": as_conll, "dependency-parsing": as_conllu}.get(task, as_json)
    if rows.output.endswith((".jsonl", ".json")):
        write = as_json
    with written_whole(rows.output) as out:
        shown = tqdm(zip(given, answers, strict=True), total=len(given), unit=" rows", disable=None)
        for row, answer in shown:
            out.write(write(labelling.written(answer, dict(row))))
            if labels is not None:
                to_score.append(answer)
    if labels is not None:
        print(json.dumps(labelling.measure(to_score, [dict(row) for row in labels])), file=sys.stderr)
    return 0


def labelled_rows(task: str, labelling: Labelling, rows: Rows) -> tuple[Dataset, Dataset | None]:
    """The rows; and the same with the numbers of their classes, if they have labels."""
    if task == "sequence-classification":
        if all(file_format(file) not in ROW_FORMATS for file in rows.input):
            return load_texts(rows.input), None
        kind = "regression" if labelling.classes is None else "classes"
        fields, label = rows.text_fields or None, rows.label_field
        given = load_classification(rows.input, text_fields=fields, label_field=label, kind=kind, labels_required=False)
    elif task == "token-classification":
        given = load_tagging(rows.input, token_field=rows.token_field, tag_field=rows.tag_field, labels_required=False)
    else:
        given = load_parsing(rows.input, token_field=rows.token_field, labels_required=False)
    if labelling.column not in given.column_names or given.data.column(labelling.column).null_count:
        return given, None
    return given, with_class_numbers(labelling, given, ", ".join(rows.input))


def as_json(row: dict[str, Any]) -> str:
    row = {name: value for name, value in row.items() if name != "conllu"}
    return json.dumps(row, ensure_ascii=False) + "\n"


def as_conll(row: dict[str, Any]) -> str:
    return "".join(f"{token}\t{tag}\n" for token, tag in zip(row["tokens"], row["tags"], strict=True)) + "\n"


def as_conllu(row: dict[str, Any]) -> str:
    if row.get("conllu") is not None:
        return with_tree(row["conllu"], row["head"], row["deprel"]) + "\n\n"
    return block_of(row["tokens"], row["head"], row["deprel"], row.get("upos")) + "\n\n"


def write_texts(task: str, model: Model, rows: Rows, flags: dict[str, Any]) -> int:
    """Translations, or replies; one line for each row."""
    translator = Translator.from_pretrained(model.model, device=model.device)
    sources: Iterator[str]
    if task == "dialogue":
        limit = translator.model.config.max_position_embeddings
        dialogs: Any = load_dialogues(rows.input, dialog_field=rows.dialog_field)
        sources = (history(row["dialog"], translator.tokenizer, limit).text for row in dialogs)
    elif all(file_format(file) in ROW_FORMATS for file in rows.input) and flags.get("source_lang"):
        sources = (row["source"] for row in load_pairs(rows.input, flags["source_lang"], flags["target_lang"]))
    else:
        sources = (row["text"] for row in load_texts(rows.input))
    made = translator.stream(
        sources, target_lang=rows.target_lang, num_beams=rows.num_beams, max_tokens=rows.max_tokens, split_long=True
    )
    with written_whole(rows.output) as out:
        for translation in tqdm(made, unit=" rows", disable=None):
            out.write(f"{one_line(translation.text)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
