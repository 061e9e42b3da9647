r"""`vanilla-transformer predict`: what a model says about new data, in the form of its task.

    vanilla-transformer predict --model runs/sst2 --input reviews.jsonl --output labelled.jsonl
    vanilla-transformer predict --model runs/parser --input raw.conllu --output parsed.conllu

    the model was trained for    reads                                  writes
    sequence-classification      rows with text(s), or lines of text    JSON Lines: label, scores of all classes
    token-classification         rows with tokens                       JSON Lines: tags; to a .conll: TOKEN tab TAG
    dependency-parsing           CoNLL-U, or rows with tokens           CoNLL-U; to a .jsonl: head, deprel
    dialogue                     rows with the turns so far             a line each: the reply
    translation                  lines, or rows with the source         a line each

A row in gives an answer out, in order, whatever the row holds. In JSON Lines it keeps all its fields; only those with the names
of the answer (`label`, `scores`, `tags`, `head`, `deprel`) are replaced. Rows that all have labels already are scored on the way,
in per cent, on standard error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from datasets import Dataset, disable_progress_bars
from tqdm import tqdm
from transformers import AutoTokenizer
from transformers.utils import logging

from vanilla_transformer.deployment.line_counts import LineCounts
from vanilla_transformer.deployment.line_output import one_line
from vanilla_transformer.deployment.whole_file import written_whole
from vanilla_transformer.scripts.command_line import command, parse_arguments
from vanilla_transformer.scripts.translation_flags import Model, load_translator
from vanilla_transformer.training.arguments import TaskArguments
from vanilla_transformer.training.conllu_files import block_of, with_tree
from vanilla_transformer.training.corpus import iterate_texts, load_texts
from vanilla_transformer.training.corpus_files import ROW_FORMATS, CorpusError, file_format, read_rows
from vanilla_transformer.training.dialogue import history
from vanilla_transformer.training.dialogues import load_dialogues
from vanilla_transformer.training.finetuning import unknown_classes, with_class_numbers
from vanilla_transformer.training.labelled_rows import load_classification, load_parsing, load_tagging
from vanilla_transformer.training.labelled_task import rows_of
from vanilla_transformer.training.labelling import Labelling
from vanilla_transformer.training.prediction import labelling_of, predict, task_of
from vanilla_transformer.training.rescoring import device
from vanilla_transformer.training.starting_model import load_from


@dataclass
class Rows:
    input: list[str] = field(metadata={"help": "files of rows, or of lines"})
    output: str = field(default="-", metadata={"help": "file to write, whole or not at all, or - for standard output"})
    text_fields: list[str] = field(
        default_factory=list,
        metadata={"help": "the field of the text, or of both texts; as in training if not given (likewise below)"},
    )
    label_field: str = field(default="", metadata={"help": "the field of the label, where rows have one"})
    token_field: str = field(default="", metadata={"help": "the field of the words or characters"})
    tag_field: str | None = field(default=None, metadata={"help": "the field of the tags, where rows have them"})
    unknown_labels: Literal["refuse", "wrong"] = field(
        default="refuse",
        metadata={"help": "a label that is none of the model's classes: an error, or always counted as wrong"},
    )
    dialog_field: str = field(default="", metadata={"help": "the field of the turns"})
    target_lang: str | None = field(default=None, metadata={"help": "translation: where the model knows several"})
    num_beams: int = field(default=4, metadata={"help": "translation and dialogue: width of the beam; 1 is greedy search"})
    max_tokens: int = field(default=4096, metadata={"help": "tokens in a batch, padding counted"})

    def __post_init__(self):
        for name in ("num_beams", "max_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")

    def as_in_training(self, flags: dict[str, Any]) -> Rows:
        """With the run's fields where none are named, and the usual ones where its flags do not tell."""
        usual = TaskArguments()
        return replace(self, **{
            name: getattr(self, name) or flags.get(name) or getattr(usual, name)
            for name in ("text_fields", "label_field", "token_field", "tag_field", "dialog_field")
        })  # fmt: skip


@command
def main(argv: list[str] | None = None) -> int:
    model, rows = parse_arguments("predict", "What a model says about new data.", Model, Rows, argv=argv)
    if not sys.stderr.isatty():
        disable_progress_bars()
        logging.disable_progress_bar()
    task, kind, flags = task_of(model.model)
    if task == "denoising":
        raise ValueError(f"{model.model} was pretrained, and fills holes in texts; fine-tune it on a task first")
    rows = rows.as_in_training(flags)
    if task in ("translation", "dialogue"):
        return write_texts(task, model, rows, flags)
    net = load_from(kind, model.model, "model").to(model.device or device())
    tokenizer = load_from(AutoTokenizer, model.model, "tokenizer")
    tokenizer.check_fits(net.config)
    labelling = labelling_of(net, tokenizer)
    given, labels = labelled_rows(task, labelling, rows)
    answers = predict(net, labelling, given, max_tokens=rows.max_tokens)
    to_score: list[Any] = []
    write, written_rows = as_json, as_given(rows.input, given)
    if task == "dependency-parsing" and not rows.output.endswith((".jsonl", ".json")):
        write, written_rows = as_conllu, rows_of(given)
    if task == "token-classification" and rows.output.endswith(".conll"):
        write, written_rows = as_conll, rows_of(given)
    with written_whole(rows.output) as out:
        for row, answer in tqdm(zip(written_rows, answers, strict=True), total=len(given), unit=" rows", disable=None):
            out.write(write(labelling.written(answer, row)))
            if labels is not None:
                to_score.append(answer)
    if labels is not None:
        print(json.dumps(labelling.measure(to_score, list(rows_of(labels)))), file=sys.stderr)
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
    if labelling.column not in given.column_names:
        return given, None
    if unlabelled := given.data.column(labelling.column).null_count:
        print(f"not scored: {unlabelled:,} of {len(given):,} rows have no `{labelling.column}`", file=sys.stderr)
        return given, None
    labels = with_class_numbers(labelling, given, ", ".join(rows.input), rows.unknown_labels == "refuse")
    if unknown := unknown_classes(labelling, given):
        shown = ", ".join(f"{name} ({count})" for name, count in list(unknown.items())[:10])
        print(f"none of the model's classes, counted as wrong: {shown}", file=sys.stderr)
    return given, labels


def as_given(files: list[str], read: Dataset) -> Iterator[dict[str, Any]]:
    """The rows with all fields that they have in the files; as they were `read`, if the files are not of rows."""
    if all(file_format(file) in ROW_FORMATS for file in files):
        return (row for file in files for _, row in read_rows(file))
    return rows_of(read)


def as_json(row: dict[str, Any]) -> str:
    row = {name: value for name, value in row.items() if name != "conllu"}
    return json.dumps(row, ensure_ascii=False, default=str) + "\n"  # str: a table's dates and the like


def as_conll(row: dict[str, Any]) -> str:
    for token in row["tokens"]:
        if any(end in token for end in "\t\n\r"):
            raise ValueError(f"token {token!r} holds a tab or a line end, which .conll cannot: write a .jsonl file")
    return "".join(f"{token}\t{tag}\n" for token, tag in zip(row["tokens"], row["tags"], strict=True)) + "\n"


def as_conllu(row: dict[str, Any]) -> str:
    if row.get("conllu") is not None:
        return with_tree(row["conllu"], row["head"], row["deprel"]) + "\n\n"
    return block_of(row["tokens"], row["head"], row["deprel"], row.get("upos")) + "\n\n"


def tagged_language(flags: dict[str, Any]) -> str | None:
    """The language whose tag stood before every source in training; None if there were no tags.

    Raises:
        ValueError: there were several, and none is named.
    """
    targets = sorted({direction.split("-")[-1] for direction in flags.get("train_languages") or []})
    if len(targets) > 1:
        raise ValueError(f"the model writes {', '.join(targets)}: say which with --target-lang")
    return targets[0] if targets else flags.get("target_lang") if flags.get("target_tag") else None


def history_limit(flags: dict[str, Any], positions: int) -> int:
    """Tokens of a history, at most: as many as the run has cut its own to, since longer ones were never learned."""
    return flags.get("max_source_length") or min(positions, flags.get("max_tokens", 2 * positions) // 2)


def write_texts(task: str, model: Model, rows: Rows, flags: dict[str, Any]) -> int:
    """Translations, or replies; one line for each row."""
    translator = load_translator(model)
    target_lang = rows.target_lang or tagged_language(flags)
    sources: Iterator[str]
    if task == "dialogue":
        limit = history_limit(flags, translator.model.config.max_position_embeddings)
        dialogs: Any = load_dialogues(rows.input, dialog_field=rows.dialog_field)
        sources = (history(row["dialog"], translator.tokenizer, limit).text for row in rows_of(dialogs))
    else:
        sources = (text for file in rows.input for text in sources_of(file, flags.get("source_lang")))
    made = translator.stream(
        sources, target_lang=target_lang, num_beams=rows.num_beams, max_tokens=rows.max_tokens, split_long=True
    )
    counts = LineCounts()
    with written_whole(rows.output) as out:
        for translation in tqdm(counts.over(made), unit=" rows", disable=None):
            out.write(f"{one_line(translation.text)}\n")
    print(counts.summary(translator), file=sys.stderr)
    return 0


def sources_of(file: str, lang: str | None) -> Iterator[str]:
    """The texts to translate: the lines of a file, or of each row the text of that language, its `source` or its `text`."""
    if file_format(file) not in ROW_FORMATS:
        yield from iterate_texts([file])
        return
    for number, row in read_rows(file):
        texts = row["translation"] if isinstance(row.get("translation"), dict) else row
        name = next((name for name in (lang, "source", "text") if name in texts), None)
        if name is None or not isinstance(texts[name], str):
            found = ", ".join(map(str, texts)) or "nothing"
            raise CorpusError(f"{file}:{number}: no text in `{lang or 'source'}`, `source` or `text`; found: {found}")
        yield texts[name]


if __name__ == "__main__":
    sys.exit(main())
