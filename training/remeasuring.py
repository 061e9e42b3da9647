"""The scores of a card, measured again: what a stranger is asked about a corpus, and what the answers come to.

    questions(row)  -->  rescoring.py, in a process without this package  -->  scores(row, answers)

The stranger only runs the model: it knows neither the references nor what is a good answer.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from types import SimpleNamespace
from typing import Any

import torch
from torch.nn.functional import one_hot

from vanilla_transformer.modeling.loss import IGNORED
from vanilla_transformer.training.labelled_task import LabelledTask, merged
from vanilla_transformer.training.metrics import Bleu, ChrF
from vanilla_transformer.training.rescoring import TOKENS_AT_ONCE
from vanilla_transformer.training.task import Corpus, Task
from vanilla_transformer.training.token_batches import cut_batches
from vanilla_transformer.training.translation import TranslationCorpus, TranslationTask

_SAMPLE_BATCH = 16


class Remeasurement(ABC):
    """Of one corpus: that on which a row of metrics.jsonl was measured."""

    def __init__(self, corpus: Corpus):
        self.corpus = corpus

    @property
    @abstractmethod
    def size(self) -> str:
        """How much was measured, in words."""

    @abstractmethod
    def questions(self, row: dict[str, Any], sample: int | None = None) -> dict[str, Any]:
        """As `rescoring.answers` takes them; about the first `sample` rows alone, if it is given.

        Raises:
            ValueError: the row's scores cannot be measured again in one way or another.
        """

    @abstractmethod
    def scores(self, row: dict[str, Any], answered: dict[str, Any]) -> dict[str, Any]:
        """Every score that is known for the corpus, by the names of metrics.jsonl."""


class OfTexts(Remeasurement):
    """Of a model that writes: losses of what should have been written, BLEU and chrF of what is."""

    def __init__(self, task: Task, corpus: Corpus, tokenizer: Any, positions: int):
        super().__init__(corpus)
        self.task, self.tokenizer, self.positions = task, tokenizer, positions

    @property
    def size(self) -> str:
        return f"{len(self.corpus.examples):,} pairs"

    def questions(self, row: dict[str, Any], sample: int | None = None) -> dict[str, Any]:
        count = len(self.corpus.examples) if sample is None else min(sample, len(self.corpus.examples))
        examples = self.corpus.examples.__getitems__([(0, index) for index in range(count)])
        pairs = [(list(example["input_ids"]), list(example["labels"])) for example in examples]
        if "bleu" not in row:
            return {"texts": [], "pairs": pairs, "num_beams": None}
        texts = self.sources()
        longest = max(map(len, self.tokenizer(texts)["input_ids"]))
        if longest > self.positions:
            raise ValueError(
                f"a source of the {row['split']} data has {longest} tokens, more than max_position_embeddings="
                f"{self.positions}: what was translated in pieces cannot be scored again; leave it out and score the model anew"
            )
        if "num_beams" not in row:
            raise ValueError(f"metrics.jsonl does not tell with how many beams its {row['split']} score was made (num_beams)")
        return {"texts": texts[:sample], "pairs": pairs, "num_beams": None if sample is not None else row["num_beams"]}

    def sources(self) -> list[str]:
        """With the tag of the language to write, where the model wants one; an empty text is not translated, and has none."""
        assert isinstance(self.corpus, TranslationCorpus) and isinstance(self.task, TranslationTask)
        texts = list(self.corpus.texts["source"])
        if self.task.tagged:
            for direction, rows in self.corpus.rows_of_directions().items():
                tag = self.tokenizer.language_tag(direction.target)
                for index in rows:
                    texts[index] = f"{tag} {texts[index]}" if texts[index].strip() else ""
        return [text if text.strip() else "" for text in texts]

    def scores(self, row: dict[str, Any], answered: dict[str, Any]) -> dict[str, Any]:
        tokens = sum(len(target) for _, target in self.questions({})["pairs"])
        loss = -math.fsum(answered["log_probs"]) / tokens
        found: dict[str, Any] = {"loss": loss, "perplexity": math.exp(min(loss, 700))}
        if "bleu" not in row:
            return found
        assert isinstance(self.corpus, TranslationCorpus) and isinstance(self.task, TranslationTask)
        references = list(self.corpus.texts["target"])
        for name, metric in (("bleu", Bleu()), ("chrf", ChrF())):
            of_each = {}
            for direction, rows in self.corpus.rows_of_directions().items():
                given = [[texts[index] for index in rows] for texts in (answered["translations"], references)]
                result = metric.compute(predictions=given[0], references=given[1])
                of_each[f"{name}_{direction}"] = result["score"]
                found[f"{name}_signature"] = result["signature"]
            found[name] = sum(of_each.values()) / len(of_each)
            found |= of_each if len(of_each) > 1 else {}
        return found | self.task.scores_of_texts(answered["translations"])


class OfLabels(Remeasurement):
    """Of a classifier, tagger or parser: its loss, and what its `Labelling` measures."""

    def __init__(self, task: LabelledTask, corpus: Corpus):
        super().__init__(corpus)
        self.labelling: Any = task.labelling

    @property
    def size(self) -> str:
        return f"{len(self.corpus.texts):,} rows"

    def questions(self, row: dict[str, Any], sample: int | None = None) -> dict[str, Any]:
        """The texts are asked about in the sample alone: that is enough to see whether the tokenizer is the same."""
        parts = self._batches()
        texts: list[str] = []
        if sample is not None:
            count = min(sample, len(self.corpus.examples))
            parts = [list(range(i, min(i + _SAMPLE_BATCH, count))) for i in range(0, count, _SAMPLE_BATCH)]
            rows = self.corpus.texts.select(range(min(sample, len(self.corpus.texts))))
            texts = [one["text"] if "text" in one else " ".join(one["tokens"]) for one in rows]
        return {"texts": texts, "batches": [self._collated(part) for part in parts]}

    def plain_texts(self) -> list[str]:
        """The texts of all rows; tokens with blanks between them, characters as they are; none where they are pairs."""
        rows = self.corpus.texts
        if "text_pair" in rows.column_names:
            return []
        if "text" in rows.column_names:
            return list(rows["text"])
        return [("" if self.labelling.pieces.characters else " ").join(tokens) for tokens in rows["tokens"]]

    def _batches(self) -> list[list[int]]:
        most = max(2 * TOKENS_AT_ONCE, int(self.corpus.lengths.sum(axis=1).max()))
        return [part.tolist() for part in cut_batches(self.corpus.lengths, most, None)]

    def _examples(self, part: list[int]) -> list[dict[str, Any]]:
        return self.corpus.examples.__getitems__([(0, index) for index in part])

    def _collated(self, part: list[int]) -> dict[str, torch.Tensor]:
        return self.labelling.collate(self._examples(part))

    def scores(self, row: dict[str, Any], answered: dict[str, Any]) -> dict[str, Any]:
        items = 0
        answers: dict[int, Any] = {}
        for part, output in zip(self._batches(), answered["outputs"], strict=True):
            examples = self._examples(part)
            items += int((self.labelling.collate(examples)["labels"] != IGNORED).sum())
            answers |= zip(part, self.labelling.answers(self._as_model_output(output), examples), strict=True)
        rows = self.corpus.examples.encoded["row"]
        of_rows = merged(((rows[index], answers[index]) for index in range(len(answers))), self.labelling)
        loss = math.fsum(output["loss"].item() for output in answered["outputs"]) / max(items, 1)
        return {"loss": loss, **self.labelling.measure(of_rows, list(self.corpus.texts))}

    def _as_model_output(self, output: dict[str, torch.Tensor]) -> SimpleNamespace:
        if "relations" not in output:
            return SimpleNamespace(**output)
        scores = one_hot(output["relations"].long(), len(self.labelling.classes))
        return SimpleNamespace(**output, relation_logits=scores)
