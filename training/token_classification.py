"""N -> N: a tag for every token: names, slots, parts of speech, morphology; words or single characters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset, Features
from seqeval.metrics.sequence_labeling import get_entities

from vanilla_transformer.modeling import VanillaTransformerForTokenClassification
from vanilla_transformer.training.class_names import NO_CLASS, ClassNames
from vanilla_transformer.training.labelling import IDS, IGNORED, Example, Labelling, per_cent, texts_of
from vanilla_transformer.training.task_metrics import EntityF1, TagAccuracy
from vanilla_transformer.training.word_pieces import Window, WordPieces

# Beside the numbers of a row's tags, where one of the part's is none of the classes.
_AS_GIVEN = "tags_as_given"


class TokenClassification(Labelling):
    """Rows with `tokens` and `tags`, numbers of classes. A token's tag is read from the state of its first piece.

    Where the tags are IOB2 (B-, I-, O), entities are scored; otherwise tags alone. Of a sentence longer than the model allows
    overlapping windows are read.

    Args:
        classes: of the tags.
        characters: the tokens are single characters, see word_pieces.py.
    """

    model_class = VanillaTransformerForTokenClassification
    column = "tags"

    def __init__(self, tokenizer: Any, pad_token_id: int, classes: ClassNames, characters: bool):
        super().__init__(tokenizer, pad_token_id)
        self.classes = TagNames(classes.names)
        self.pieces = WordPieces(tokenizer, characters)
        self.has_entities = all(map(_is_iob, classes.names))
        self.metrics = ("f1", "precision", "recall", "tag_accuracy") if self.has_entities else ("tag_accuracy",)
        self.best_metric = self.metrics[0]

    def head(self) -> dict[str, Any]:
        return {
            "id2label": self.classes.id2label,
            "label2id": self.classes.label2id,
            "tokens_are_characters": self.pieces.characters,
        }

    def features(self, has_labels: bool) -> Features:
        return Features({"input_ids": IDS, "word_positions": IDS, **({"labels": IDS} if has_labels else {})})

    def encode(self, rows: Sequence[dict[str, Any]], limit: int | None, first_row: int = 1) -> list[list[Example]]:
        if limit is None:
            cut = [[Window(0, len(row["tokens"]), 0, len(row["tokens"]))] for row in rows]
        else:
            cut = [self.pieces.windows(row["tokens"], limit, row=n) for n, row in enumerate(rows, start=first_row)]
        runs = [(row, window) for row, windows in zip(rows, cut, strict=True) for window in windows]
        ids, positions = self.pieces.encode([row["tokens"][window.start : window.stop] for row, window in runs])
        examples = []
        for (row, window), row_ids, row_positions in zip(runs, ids, positions, strict=True):
            kept = slice(window.keep_start - window.start, window.keep_stop - window.start)
            example = {"input_ids": row_ids, "word_positions": row_positions[kept]}
            if row.get("tags") is not None:
                example["labels"] = row["tags"][window.keep_start : window.keep_stop]
            examples.append(example)
        found = iter(examples)
        return [[next(found) for _ in windows] for windows in cut]

    def is_empty(self, row: dict[str, Any]) -> bool:
        return not any(token.strip() for token in row["tokens"])

    def collate(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        batch = texts_of(examples, self.pad_token_id)
        if "labels" in examples[0]:
            labels = torch.full_like(batch["input_ids"], IGNORED)
            for row, example in enumerate(examples):
                places, tags = (torch.tensor(example[name], dtype=torch.long) for name in ("word_positions", "labels"))
                labels[row, places] = tags
            batch["labels"] = labels
        return batch

    def answers(self, output: Any, examples: Sequence[Example]) -> list[list[int]]:
        best = output.logits.argmax(-1).cpu()
        return [best[row, example["word_positions"]].tolist() for row, example in enumerate(examples)]

    def merged(self, answers: Sequence[list[int]]) -> list[int]:
        return [tag for answer in answers for tag in answer]

    def measure(self, answers: Sequence[list[int]], rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        predictions = [[self.classes.name(tag) for tag in answer] for answer in answers]
        references = [[self.classes.name(tag) for tag in row["tags"]] for row in rows]
        found = {"tag_accuracy": TagAccuracy().compute(predictions=predictions, references=references)["accuracy"]}
        if self.has_entities:
            entities = EntityF1().compute(predictions=predictions, references=list(map(self._entity_tags, rows)))
            found |= {name: entities[name] for name in ("f1", "precision", "recall")}
        return per_cent(found)

    def _entity_tags(self, row: dict[str, Any]) -> list[str]:
        """The names of a row's tags. An entity with a tag that training has not is, whole, of a kind that no model finds: less of
        it might be what a model predicts.
        """
        given = row.get(_AS_GIVEN) or map(self.classes.name, row["tags"])
        tags = [name if _is_iob(name) else f"B-{NO_CLASS}" for name in given]
        for _, first, last in get_entities(tags):
            if IGNORED in row["tags"][first : last + 1]:
                tags[first : last + 1] = [f"B-{NO_CLASS}", *[f"I-{NO_CLASS}"] * (last - first)]
        return tags

    def written(self, answer: list[int], row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "tags": [self.classes.names[tag] for tag in answer]}


class TagNames(ClassNames):
    """Of tags. Where one is none of the classes, `encode` keeps in a further column how all were written: B- and I- tell which of
    them are one entity.
    """

    def encode(self, dataset: Dataset, column: str, part: str, refuse_unknown: bool = True) -> Dataset:
        numbered = super().encode(dataset, column, part, refuse_unknown)
        if not self.unknown(dataset, column):
            return numbered
        given: Any = [[self._given(dataset, column, tag) for tag in tags] for tags in dataset[column]]
        return numbered.add_column(_AS_GIVEN, given)


def _is_iob(tag: str) -> bool:
    return tag == "O" or tag.startswith(("B-", "I-"))
