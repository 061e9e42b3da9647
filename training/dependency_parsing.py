"""N -> path: the tree of a sentence, from a biaffine head (Dozat and Manning 2017) and a maximum spanning tree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from datasets import Features

from vanilla_transformer.modeling import VanillaTransformerForDependencyParsing
from vanilla_transformer.training.class_names import ClassNames
from vanilla_transformer.training.labelling import IDS, IGNORED, Example, Labelling, padded, per_cent, texts_of
from vanilla_transformer.training.spanning_tree import tree_heads
from vanilla_transformer.training.task_metrics import AttachmentScores
from vanilla_transformer.training.word_pieces import WordPieces

Tree = tuple[list[int], list[str]]
"""the head of each word, 1-based, 0 for the root; and its relation to it"""


class DependencyParsing(Labelling):
    """Rows with `tokens`, `head` and `deprel`, numbers of classes. A word is read from its first piece, ROOT from `</s>`.

    Args:
        classes: of the relations.
    """

    model_class = VanillaTransformerForDependencyParsing
    column = "deprel"
    best_metric = "las"
    metrics = ("las", "uas")

    def __init__(self, tokenizer: Any, pad_token_id: int, classes: ClassNames):
        super().__init__(tokenizer, pad_token_id)
        self.classes = classes
        self.pieces = WordPieces(tokenizer)

    def head(self) -> dict[str, Any]:
        return {"id2label": self.classes.id2label, "label2id": self.classes.label2id}

    def features(self, has_labels: bool) -> Features:
        tree = {"labels": IDS, "relations": IDS} if has_labels else {}
        return Features({"input_ids": IDS, "word_positions": IDS, **tree})

    def encode(self, rows: Sequence[dict[str, Any]], limit: int | None, first_row: int = 1) -> list[list[Example]]:
        ids, positions = self.pieces.encode([row["tokens"] for row in rows], first_row)
        found = []
        for number, (row, row_ids, row_positions) in enumerate(zip(rows, ids, positions, strict=True), start=first_row):
            if limit is not None and len(row_ids) > limit:
                raise ValueError(
                    f"row {number}: the sentence {' '.join(row['tokens'][:8])!r}... has {len(row_ids)} tokens, more than "
                    f"{limit}, and no tree is made in parts: split it, or use a model with a larger max_position_embeddings"
                )
            tree = {} if row.get("head") is None else {"labels": row["head"], "relations": row["deprel"]}
            found.append([{"input_ids": row_ids, "word_positions": [len(row_ids) - 1, *row_positions], **tree}])
        return found

    def is_empty(self, row: dict[str, Any]) -> bool:
        return not row["tokens"]

    def collate(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        batch = texts_of(examples, self.pad_token_id)
        batch["word_positions"] = padded([example["word_positions"] for example in examples], -1)
        if "labels" in examples[0]:
            for name in ("labels", "relations"):
                batch[name] = padded([example[name] for example in examples], IGNORED)
        return batch

    def answers(self, output: Any, examples: Sequence[Example]) -> list[Tree]:
        arcs = output.arc_logits.float().log_softmax(-1).cpu().numpy()  # (B, W, 1 + W)
        best = output.relation_logits.argmax(-1).cpu().numpy()  # (B, W, 1 + W)
        trees = []
        for row, example in enumerate(examples):
            W = len(example["word_positions"]) - 1
            heads = tree_heads(arcs[row, :W, : W + 1])
            relations = best[row, np.arange(W), heads]
            trees.append((heads.tolist(), [self.classes.names[relation] for relation in relations]))
        return trees

    def merged(self, answers: Sequence[Tree]) -> Tree:
        (tree,) = answers
        return tree

    def measure(self, answers: Sequence[Tree], rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        name = self.classes.name
        found = AttachmentScores().compute(
            predictions=[{"head": heads, "deprel": relations} for heads, relations in answers],
            references=[{"head": row["head"], "deprel": [name(relation) for relation in row["deprel"]]} for row in rows],
        )
        return per_cent({name: found[name] for name in ("las", "uas")})

    def written(self, answer: Tree, row: dict[str, Any]) -> dict[str, Any]:
        heads, relations = answer
        return {**row, "head": heads, "deprel": relations}
