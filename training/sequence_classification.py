"""N -> 1: a class, or a number, for a text or a pair of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from datasets import Features, Value

from vanilla_transformer.modeling import VanillaTransformerForSequenceClassification
from vanilla_transformer.training.class_names import ClassNames
from vanilla_transformer.training.labelling import IDS, Example, Labelling, per_cent, texts_of
from vanilla_transformer.training.task_metrics import Accuracy, MacroF1, Pearson, Spearman


class SequenceClassification(Labelling):
    """Rows with `text`, perhaps `text_pair`, and `label`, the number of a class or, in regression, any number.

    A pair is one source, `text </s> text_pair </s>`. Of a text longer than the model allows the windows are read one by one,
    and their probabilities averaged; of a pair it is the longer text that is cut into windows, each with the whole of the other.

    Args:
        classes: None for regression.
    """

    model_class = VanillaTransformerForSequenceClassification
    column = "label"

    def __init__(self, tokenizer: Any, pad_token_id: int, classes: ClassNames | None):
        super().__init__(tokenizer, pad_token_id)
        self.classes = classes
        self.metrics = ("pearson", "spearman") if classes is None else ("accuracy", "macro_f1")
        self.best_metric = self.metrics[0]

    def head(self) -> dict[str, Any]:
        if self.classes is None:
            return {"problem_type": "regression", "id2label": {0: "score"}, "label2id": {"score": 0}}
        classes = {"id2label": self.classes.id2label, "label2id": self.classes.label2id}
        return {"problem_type": "single_label_classification", **classes}

    def features(self, has_labels: bool) -> Features:
        label = {"labels": Value("float32" if self.classes is None else "int64")} if has_labels else {}
        return Features({"input_ids": IDS, **label})

    def encode(self, rows: Sequence[dict[str, Any]], limit: int | None, first_row: int = 1) -> list[list[Example]]:
        texts = self._ids([row["text"] for row in rows])
        pairs = self._ids([row["text_pair"] for row in rows]) if "text_pair" in rows[0] else [[]] * len(rows)
        found = []
        for number, (row, text, pair) in enumerate(zip(rows, texts, pairs, strict=True), start=first_row):
            label = {} if row.get("label") is None else {"labels": row["label"]}
            found.append([{"input_ids": ids, **label} for ids in windows(text, pair, limit, number)])
        return found

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(texts, return_attention_mask=False, verbose=False)["input_ids"]

    def is_empty(self, row: dict[str, Any]) -> bool:
        return not row["text"].strip() or not row.get("text_pair", "-").strip()

    def collate(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        batch = texts_of(examples, self.pad_token_id)
        if "labels" in examples[0]:
            batch["labels"] = torch.tensor([example["labels"] for example in examples])
        return batch

    def answers(self, output: Any, examples: Sequence[Example]) -> list[np.ndarray]:
        """(C,) probabilities, or (1,) the number."""
        logits = output.logits.float()
        return list((logits if self.classes is None else logits.softmax(-1)).cpu().numpy())

    def merged(self, answers: Sequence[np.ndarray]) -> np.ndarray:
        return np.mean(answers, axis=0)

    def measure(self, answers: Sequence[np.ndarray], rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        if self.classes is None:
            numbers = {"predictions": [float(answer[0]) for answer in answers], "references": [row["label"] for row in rows]}
            found = Pearson().compute(**numbers) | Spearman().compute(**numbers)
        else:
            name = self.classes.name
            given = {
                "predictions": [name(int(answer.argmax())) for answer in answers],
                "references": [name(row["label"]) for row in rows],
            }
            found = Accuracy().compute(**given) | MacroF1().compute(**given)
        return per_cent(found)

    def written(self, answer: np.ndarray, row: dict[str, Any]) -> dict[str, Any]:
        if self.classes is None:
            return {**row, "label": round(float(answer[0]), 5)}
        scores = {name: round(float(p), 5) for name, p in zip(self.classes.names, answer, strict=True)}
        return {**row, "label": self.classes.names[int(answer.argmax())], "scores": scores}


def windows(text: list[int], pair: list[int], limit: int | None, row: int = 1) -> list[list[int]]:
    """`text` and `pair` (which may be empty), both ending in `</s>`, as sources of at most `limit` tokens.

    The longer one is cut where it must be, into equal runs, each ending in `</s>`, each with the whole of the other.

    Raises:
        ValueError: both are so long that no run of the one fits beside the other.
    """
    if limit is None or len(text) + len(pair) <= limit:
        return [text + pair]
    long, other = (text, pair) if len(text) >= len(pair) else (pair, text)
    room = limit - len(other) - 1
    if room < 1:
        raise ValueError(
            f"row {row}: a pair of texts of {len(text)} and {len(pair)} tokens: neither leaves room for the other in {limit}; "
            f"shorten one, or use a model with a larger max_position_embeddings"
        )
    *body, end = long
    count = -(-len(body) // room)
    runs = [[*run.tolist(), end] for run in np.array_split(np.array(body), count)]
    return [run + other if long is text else other + run for run in runs]
